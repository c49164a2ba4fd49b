"""What the lists are worth in small and young homes: some users, or the first days, of public sets, against every peer.

The users are drawn at random, by a fixed seed. Each home is cleaned, and `backtest` goes to its cuts, as in `bench_quality`. One such
home says little, and the best of its peers is partly chance. So behind the homes of a set all its pairs of user and cut stand together, against the
one peer that is best over all of them; the last line is of all pairs, each home against the best peer that it has.

    python -m benchmarks.bench_small_homes
    python -m benchmarks.bench_small_homes --sets online-retail
    TIDEMARK_RANKER__MIN_USERS=50 python -m benchmarks.bench_small_homes

The last says what the blend of the surface's weights is worth where fewer than 50 users could teach. A set of which the files are not
here is left out, and said so.
"""

import argparse
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_quality import PRODUCT, SETS, clean, files, interval
from benchmarks.processes import tidemark
from include.models.peers import PEERS
from include.settings import Settings
from include.stores import lake


@dataclass(frozen=True)
class Small:
    """A small home, and the windows that it is judged on.

    Attributes:
        of: the set, of `bench_quality`.
        every: the length of a window.
        cuts: how many.
        users: how many are drawn; None for all.
        days: how many of the first days are taken; None for all.
        after: the first day of these, counted from the first event of the set.
        seed: of what is drawn.
    """

    of: str
    every: str
    cuts: int
    users: int | None = None
    days: int | None = None
    after: int = 0
    seed: int = 1

    @property
    def name(self) -> str:
        """As it is printed."""
        if self.users is not None:
            return f"{self.of}, {self.users} users"
        return f"{self.of}, {self.days} days{f' from day {self.after}' if self.after else ''}"


HOMES = (
    Small("ml-100k", "7d", 8, users=40),
    Small("ml-100k", "7d", 8, users=120, seed=2),
    *(Small("ml-100k", "2d", 4, days=14, after=after) for after in (0, 40, 80, 120, 160)),
    Small("online-retail", "14d", 6, users=60),
    Small("online-retail", "14d", 6, users=250, seed=2),
    *(Small("online-retail", "1d", 4, days=10, after=after) for after in (0, 60, 120, 180, 240)),
    Small("online-retail", "4d", 4, days=30),
    Small("ifdb", "60d", 6, users=100),
    Small("ifdb", "60d", 6, users=400, seed=2),
    Small("stackexchange", "14d", 4, users=60),
    Small("stackexchange", "14d", 4, days=60),
)


def draw(whole: Path, small: Small, folder: Path) -> None:
    """Write a part of a cleaned home into two files of canonical rows, events.parquet and items.parquet."""
    with lake.connect(Settings(home=whole)) as connection:
        ids = connection.sql("SELECT DISTINCT user_id FROM fct_interactions WHERE excluded_at IS NULL ORDER BY ALL")
        users = ids.fetchnumpy()["user_id"]
        if small.users is not None:
            users = np.random.default_rng(small.seed).choice(users, small.users, replace=False)
        connection.execute("CREATE TEMP TABLE drawn AS SELECT unnest(?) AS user_id", [users.tolist()])
        connection.execute(
            """
            CREATE TEMP TABLE events AS
            WITH beginning AS (SELECT min(event_ts) + to_days($after) AS first FROM fct_interactions)
            SELECT event_key AS event_id, user_id, item_id, event_type, event_ts, value
            FROM beginning CROSS JOIN fct_interactions SEMI JOIN drawn USING (user_id)
            WHERE excluded_at IS NULL AND event_ts >= first AND ($days IS NULL OR event_ts < first + to_days($days))
            ORDER BY event_ts, event_id
            """,
            {"after": small.after, "days": small.days},
        )
        connection.execute(
            """
            CREATE TEMP TABLE items AS
            SELECT item_id, kind, title, description, categories, creator_id, price, published_at
            FROM dim_items SEMI JOIN events USING (item_id)
            WHERE valid_to IS NULL AND described
            ORDER BY item_id
            """
        )
        for table in ("events", "items"):
            connection.table(table).write_parquet(str(folder / f"{table}.parquet"))


def judged(whole: Path, small: Small, scratch: Path) -> dict[str, Any]:
    """The backtest's `metrics.json` of a small home."""
    home, out = scratch / "home", scratch / "backtest"
    draw(whole, small, scratch)
    for table in ("items", "events"):
        tidemark(home, "land", scratch / f"{table}.parquet", "--table", table)
    tidemark(home, "clean")
    tidemark(home, "backtest", "--every", small.every, "--cuts", small.cuts, "--out", out)
    return dict(json.loads((out / "metrics.json").read_text()))


def show(name: str, pairs: int, own: float, peer: float, best: str, ratio: str) -> None:
    """Print a line."""
    print(f"{name:32}{pairs:6}{own:9.4f}{peer:10.4f}  {best:12}{ratio:>26}", flush=True)


def main() -> None:
    """Run and print a line a home, and all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({small.of for small in HOMES})
    parser.add_argument(
        "--sets", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}"
    )
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{'home':32}{'pairs':>6}{PRODUCT:>9}{'best peer':>10}{'ratio':>40}", flush=True)
    total = np.zeros(3)  # pairs, and by these what Tidemark and each home's best peer are worth
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.sets:
            whole, folder = Path(temporary) / name, files(name, Path(temporary))
            if folder is None:
                continue
            clean(whole, SETS[name], folder)
            together, worth = 0, dict.fromkeys((PRODUCT, *PEERS), 0.0)
            for small in (one for one in HOMES if one.of == name):
                with tempfile.TemporaryDirectory(dir=temporary) as scratch:
                    found = judged(whole, small, Path(scratch))
                pairs, best = found["counts"]["pairs"], found["best_peer"]
                own, peer = (found["methods"][method]["ndcg"] for method in (PRODUCT, best))
                total += pairs * np.array([1.0, own, peer])
                together += pairs
                for method in worth:
                    worth[method] += pairs * found["methods"].get(method, {"ndcg": 0.0})["ndcg"]
                ratio = interval(found["ratio"]) if found["ratio"]["ratio"] is not None else ""
                show(small.name, pairs, own, peer, best, ratio)
            best = max(PEERS, key=lambda method: worth[method])
            own, peer = worth[PRODUCT] / together, worth[best] / together
            show(f"{name}, all", together, own, peer, best, f"{own / peer:.3f}" if peer else "")
    if total[0]:
        pairs, own, peer = total / [1, total[0], total[0]]
        show("all pairs", int(pairs), own, peer, "of each", f"{own / peer:.3f}" if peer else "")


if __name__ == "__main__":
    main()
