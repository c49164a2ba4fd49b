"""What the lists are worth on public data: Tidemark and every peer, over the same cuts, in one run of the backtest a set.

Each set is landed and cleaned in a home of its own; then `backtest` goes to its cuts. Nothing is tuned to a set: the settings are
the defaults, but that goods which are bought again may be recommended again where it says so. A set of which the files are not here
is left out, and said so.

Then what a cut costs: Tidemark alone at the last one, its texts embedded before, every step of it.

    python -m benchmarks.bench_quality
    python -m benchmarks.bench_quality --sets ml-100k --keep /tmp/quality

A home that `--keep` kept is not landed again.
"""

import argparse
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import REPOSITORY, Cost, tidemark
from include.embedded import demo
from include.settings import Settings

SHARED = REPOSITORY.parent / "shared" / "data"
PRODUCT = "tidemark"
SIMPLE = ("popularity", "text")
"""Peers that know of cold items."""
AGAIN = json.dumps([{"name": "home", "show_seen": True}])


@dataclass(frozen=True)
class Cuts:
    """A set, and the windows that it is judged on.

    Attributes:
        format: how it is landed.
        every: the length of a window.
        cuts: how many.
        repeats: whether what a user had may be recommended again.
        folder: where its files are; None where the demo fetches them.
    """

    format: str
    every: str
    cuts: int
    repeats: bool = False
    folder: Path | None = None


SETS = {
    "online-retail": Cuts("online-retail", "7d", 4, folder=SHARED / "online_retail"),
    "ifdb": Cuts("ifdb", "30d", 6, folder=SHARED / "ifdb"),
    "ml-100k": Cuts("movielens", "4d", 6),
    "stackexchange": Cuts("stackexchange", "14d", 6, folder=SHARED / "stackexchange"),
    "complete-journey": Cuts("complete-journey", "7d", 4, repeats=True),
    "online-retail-repeats": Cuts("online-retail", "7d", 4, repeats=True, folder=SHARED / "online_retail"),
}


def files(name: str, scratch: Path) -> Path | None:
    """The folder of a set's files, fetched where the demo does it; None, and said so, where they are not here."""
    folder = SETS[name].folder or demo.fetch(Settings(home=scratch / "demo"), name)
    if folder.is_dir():
        return folder
    print(f"\n{name}: left out, {folder} is not here")
    return None


def clean(home: Path, wanted: Cuts, folder: Path, **settings: str) -> None:
    """Land a set and clean it."""
    tidemark(home, "land", folder, "--format", wanted.format, **settings)
    tidemark(home, "clean", **settings)


def judged(name: str, wanted: Cuts, folder: Path, scratch: Path) -> tuple[dict[str, Any], Cost, Cost]:
    """The backtest's `metrics.json` of a set, what the backtest cost, and what one cut of Tidemark alone does."""
    home, out = scratch / name / "home", scratch / name / "backtest"
    extra = {"TIDEMARK_SURFACES": AGAIN} if wanted.repeats else {}
    if not home.is_dir():
        clean(home, wanted, folder, **extra)
    cuts = ("backtest", "--every", wanted.every, "--cuts")
    cost = tidemark(home, *cuts, wanted.cuts, "--out", out, **extra)
    alone = tidemark(home, *cuts, 1, "--methods", PRODUCT, "--out", scratch / name / "alone", **extra)
    return json.loads((out / "metrics.json").read_text()), cost, alone


def interval(ratio: dict[str, float]) -> str:
    """A ratio with its interval."""
    return f"{ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


def show(name: str, wanted: Cuts, found: dict[str, Any], cost: Cost, alone: Cost) -> None:
    """A table of a set's methods, the best first."""
    counts = found["counts"]
    print(
        f"\n{name}: {wanted.cuts} cuts every {wanted.every}{', repeats allowed' if wanted.repeats else ''}; "
        f"{counts['pairs']:,} pairs of {counts['users']:,} users; {cost.wall:.0f} s, {cost.cpu:.0f} CPU s, {cost.peak:.1f} GB"
    )
    print(f"{'method':18}{'NDCG@10':>9}{'cold':>9}{'coverage':>10}{'of the best peer':>26}")
    for method, values in sorted(found["methods"].items(), key=lambda each: -each[1]["ndcg"]):
        cold, ratio = values["cold_items"]["ndcg"], found["against_best_peer"][method]
        of_best = "" if ratio["ratio"] is None else interval(ratio)
        cold_text = "-" if cold is None else f"{cold:.4f}"
        print(f"{method:18}{values['ndcg']:9.4f}{cold_text:>9}{values['coverage']:10.3f}{of_best:>26}", flush=True)
    if (ratio := found["vectors_against_ease"]) and ratio["ratio"] is not None:
        print(f"{PRODUCT}_vectors, u·p alone, to ease: {interval(ratio)}")
    for method, why in found["refused"].items():
        print(f"{method:18}refused: {why}")
    print(f"one cut of {PRODUCT} alone: {alone.wall:.0f} s, {alone.cpu:.0f} CPU s, {alone.peak:.1f} GB", flush=True)
    cold = {method: values["cold_items"]["ndcg"] or 0.0 for method, values in found["methods"].items()}
    known = max(SIMPLE, key=lambda method: cold.get(method, 0.0))
    if cold.get(known):
        print(
            f"cold items: {PRODUCT} {cold[PRODUCT]:.4f}, {known} {cold[known]:.4f}: {cold[PRODUCT] / cold[known]:.2f} times"
        )


def main() -> None:
    """Run and print a table a set, and the geometric mean of the ratios to the best peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sets", nargs="+", choices=SETS, default=list(SETS), metavar="NAME", help=f"of {', '.join(SETS)}"
    )
    parser.add_argument("--keep", type=Path, help="a folder for homes and results; by default they are taken away")
    arguments = parser.parse_args()
    ratios = {}
    with tempfile.TemporaryDirectory() as temporary:
        scratch = (arguments.keep or Path(temporary)).absolute()
        os.environ["OMP_NUM_THREADS"] = "1"  # one core, as the goal of a cut's cost says
        for name in arguments.sets:
            wanted, folder = SETS[name], files(name, scratch)
            if folder is None:
                continue
            found, cost, alone = judged(name, wanted, folder, scratch)
            show(name, wanted, found, cost, alone)
            ratios[name] = found["ratio"]["ratio"]
    if ratios:
        mean = math.exp(sum(math.log(ratio) for ratio in ratios.values()) / len(ratios))
        print(f"\n{PRODUCT} to the best peer: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))
        print(f"geometric mean {mean:.3f}")


if __name__ == "__main__":
    main()
