"""What lists are worth in a simulated newsroom, where most of what will be read tomorrow is not written yet.

Articles appear by day and are read for a day or so, the more the stronger their pull; each reader has a taste for some of fifteen
topics, which titles, texts and categories tell of. All of it is drawn from a seed, so it says whether lists follow where nearly
everything is new, and not what they are worth to a real newsroom.

The backtest judges lists of a day beside every peer, and beside what was drawn, pulls and tastes, which is the most that could be
known; then, with `--freshness`, lists that are made anew by the hour.

    python -m benchmarks.bench_newsroom
"""

import argparse
import json
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.bench_quality import interval
from benchmarks.processes import tidemark
from include.models.metrics import ndcg

START = datetime(2024, 1, 1, tzinfo=UTC)
TOPICS = (
    "election senate minister vote parliament campaign law coalition", "match goal league striker coach transfer cup penalty",
    "inflation bank market shares interest trade tariff budget", "storm heat emissions forest flood drought glacier solar",
    "festival premiere actor drama cinema award screenplay sequel", "album tour concert singer band charts orchestra vinyl",
    "telescope genome particle fossil vaccine laboratory physics brain", "startup chip software privacy phone robot cloud security",
    "hospital patients flu therapy diet doctors surgery sleep", "airline hotel island visa tourists train museum beach",
    "police court trial robbery suspect sentence fraud jail", "recipe restaurant chef wine harvest bakery cheese kitchen",
    "council school bridge neighbourhood mayor library park housing", "serve tournament grand slam ranking final racket champion",
    "front troops ceasefire missile refugees border general aid",
)  # fmt: skip
DAYS, READERS, ARTICLES_A_DAY, VIEWS_A_DAY = 45, 3000, 45, 1.6
FADES_HOURS, READ_FOR_HOURS = 14.0, 96.0
OFF_TOPIC = 0.02
"""What an article of no taste at all still attracts."""

K = 10


@dataclass(frozen=True)
class Newsroom:
    """What was drawn: hours from `START`, and what draws readers to articles."""

    written: NDArray[np.float64]
    """(articles,) ascending."""

    topic: NDArray[np.int64]
    pull: NDArray[np.float64]
    taste: NDArray[np.float64]
    """(readers, topics)."""

    def drawn_to(self, reader: int, hour: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The articles that are still read, and how much a reader is drawn to each."""
        age = hour - self.written
        there = np.flatnonzero((age > 0) & (age < READ_FOR_HOURS))
        fading = np.exp(-age[there] / FADES_HOURS)
        return there, self.pull[there] * fading * (OFF_TOPIC + self.taste[reader, self.topic[there]])


def draw(random: np.random.Generator) -> Newsroom:
    """Articles, mostly written by day, and readers' tastes, of a few topics each."""
    count = random.poisson(ARTICLES_A_DAY, DAYS)
    hour = np.clip(random.normal(12.0, 5.0, count.sum()), 0.0, 23.99)
    share = random.dirichlet(np.full(len(TOPICS), 3.0))
    return Newsroom(
        written=np.sort(np.repeat(np.arange(DAYS) * 24.0, count) + hour),
        topic=random.choice(len(TOPICS), count.sum(), p=share),
        pull=random.lognormal(0.0, 1.2, count.sum()),
        taste=random.dirichlet(np.full(len(TOPICS), 0.25), READERS),
    )


def views(newsroom: Newsroom, random: np.random.Generator) -> list[tuple[int, int, float]]:
    """Reader, article and hour of each view: a visit a day at most, on which nothing is read twice."""
    active = random.lognormal(0.0, 1.0, READERS)
    found = []
    for day in range(1, DAYS):
        wanted = random.poisson(active / active.mean() * VIEWS_A_DAY)
        for reader in np.flatnonzero(wanted):
            hour = day * 24 + float(np.clip(random.normal(14.0, 5.0), 6.0, 23.5))
            there, drawn = newsroom.drawn_to(reader, hour)
            size = min(int(wanted[reader]), len(there))
            for article in random.choice(there, size, replace=False, p=drawn / drawn.sum()):
                found.append((int(reader), int(article), hour + float(random.uniform(0.0, 0.2))))
    return found


def when(hour: float) -> str:
    return (START + timedelta(hours=hour)).isoformat()


def write(folder: Path, newsroom: Newsroom, seen: list[tuple[int, int, float]], random: np.random.Generator) -> None:
    """Canonical events and items."""
    words = [topic.split() for topic in TOPICS]
    with (folder / "items.jsonl").open("w") as file:
        for number, (hour, topic) in enumerate(zip(newsroom.written, newsroom.topic, strict=True)):
            title, text = random.choice(words[topic], 4, replace=False), random.choice(words[topic], 12)
            told = {"title": " ".join(title), "description": " ".join(text), "categories": [words[topic][0]]}
            file.write(json.dumps({"item_id": f"a{number}", **told, "published_at": when(hour)}) + "\n")
    with (folder / "events.jsonl").open("w") as file:
        for number, (reader, article, hour) in enumerate(seen):
            event = {"event_id": f"e{number}", "user_id": f"r{reader}", "item_id": f"a{article}"}
            file.write(json.dumps({**event, "event_type": "view", "event_ts": when(hour)}) + "\n")


def known_best(newsroom: Newsroom, seen: list[tuple[int, int, float]], lists: Path) -> tuple[float, float]:
    """NDCG of the drawn pulls and tastes, and of the product's lists, over the same pairs of reader and cut."""
    found: list[tuple[float, float]] = []
    rows = pq.read_table(lists, filters=[("method", "=", "tidemark")]).sort_by("rank").to_pylist()
    listed: dict[tuple[datetime, int], list[int]] = {}
    for row in rows:
        cut = datetime.fromisoformat(str(row["cut"]))
        listed.setdefault((cut, int(row["user_id"][1:])), []).append(int(row["item_id"][1:]))
    read: dict[int, list[tuple[int, float]]] = {}
    for reader, article, at in seen:
        read.setdefault(reader, []).append((article, at))
    for (cut, reader), items in listed.items():
        hour = (cut - START) / timedelta(hours=1)
        had = {article for article, at in read[reader] if at < hour}
        later = {article for article, at in read[reader] if hour <= at < hour + 24}
        wanted = {article for article in later - had if newsroom.written[article] < hour}
        if wanted:
            there, drawn = newsroom.drawn_to(reader, hour)
            best = [article for article in there[np.argsort(-drawn)] if article not in had]
            found.append((_ndcg(best, wanted), _ndcg(items, wanted)))
    best_mean, own_mean = np.mean(found, axis=0)
    return float(best_mean), float(own_mean)


def _ndcg(listed: list[int], wanted: set[int]) -> float:
    hits = np.zeros((1, K), dtype=bool)
    hits[0, : len(listed[:K])] = [article in wanted for article in listed[:K]]
    return float(ndcg(hits, np.array([len(wanted)]))[0])


def show(found: dict[str, Any]) -> None:
    """Print what the backtest found."""
    for name, method in found["methods"].items():
        print(f"{name:18} NDCG@{K} {method['ndcg']:.4f}")
    print(f"tidemark to {found['best_peer']}: {interval(found['ratio'])}")
    for curve, each in found.get("freshness", {}).get("curves", {}).items():
        for name, facts in each["cadences"].items():
            print(f"{curve:12} {name:10} NDCG@{K} {facts['ndcg']:.4f}, to daily {interval(facts['ratio'])}")


def main() -> None:
    """Draw, land, clean, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    os.environ["OMP_NUM_THREADS"] = "1"
    random = np.random.default_rng(seed)
    newsroom = draw(random)
    seen = views(newsroom, random)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, newsroom, seen, random)
        print(f"{len(newsroom.written):,} articles, {READERS:,} readers, {len(seen):,} views, seed {seed}", flush=True)
        home = folder / "home"
        for file in ("events.jsonl", "items.jsonl"):
            tidemark(home, "land", folder / file)
        tidemark(home, "clean")
        tidemark(home, "backtest", "--every", "1d", "--cuts", 5, "--out", folder / "days")
        show(json.loads((folder / "days" / "metrics.json").read_text()))
        best, own = known_best(newsroom, seen, folder / "days" / "recommendations.parquet")
        print(f"{'what was drawn':18} NDCG@{K} {best:.4f}; tidemark over the same pairs {own:.4f}")
        hours = ("--every", "2d", "--cuts", 2, "--methods", "tidemark,popularity", "--freshness")
        tidemark(home, "backtest", *hours, "--out", folder / "hours")
        show(json.loads((folder / "hours" / "metrics.json").read_text()))


if __name__ == "__main__":
    main()
