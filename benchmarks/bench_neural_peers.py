"""LightFM and SASRec by RecTools beside Tidemark's lists, on one cut of public data, judged by the backtest.

RecTools pins older libraries, so both live in an environment of their own, which is made the first time (`--environment`; 1.5 GB).
What was known before the cut goes there as Parquet, and lists come back (see `neural_peers/train.py`). Each method has one setting for
all data, and as many epochs as were best in the window before the cut. With `--keep` the loss curves are in
`neural-peers/curves.svg` of each set.

    python -m benchmarks.bench_neural_peers
    python -m benchmarks.bench_neural_peers --sets ml-100k --keep /tmp/neural-peers
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from benchmarks.bench_quality import SETS
from benchmarks.processes import REPOSITORY, tidemark
from include.durations import duration
from include.embedded import demo
from include.models import metrics
from include.settings import Settings
from include.steps.backtest import LISTS, Plan, judge, known_at, plan_backtest, recommend_as_of, window_after
from include.steps.judging import Known
from include.stores import behaviour, lake

OWN = ("tidemark", "tidemark_vectors", "popularity", "ease")
PEERS = ("lightfm", "sasrec")
HERE = Path(__file__).parent / "neural_peers"
ENVIRONMENT = REPOSITORY / ".tidemark" / "neural-peers"
EVERY = {"online-retail": "7d", "ml-100k": "28d"}
"""The length of a window. A cut every 4 days of ml-100k has 30 users, too few for one cut to say anything."""


def export(settings: Settings, plan: Plan, folder: Path) -> None:
    """Write what was known as of the plan's cut, and as of the window before it, for methods outside.

    Of the window behind the cut nothing is written but whom to recommend to, as the backtest has it.
    """
    (cut,) = (datetime.fromisoformat(each) for each in plan["cuts"])
    for name, moment in (("earlier", cut - duration(plan["every"])), ("cut", cut)):
        known = known_at(settings, plan, moment)
        window = window_after(settings, plan, known)
        with lake.connect(settings) as connection:
            snapshot = plan["lake_snapshot"]
            done = behaviour.interactions(connection, snapshot, moment, known.users, known.items)
            items = behaviour.items(connection, snapshot, moment)
        there = done.item >= 0
        tables = {
            "interactions": _pairs(known, known.users, done.user[there], done.item[there])
            .append_column("event_ts", pa.array(done.event_ts[there]))
            .append_column("weight", pa.array(done.weight[there])),
            "items": items,
            "users": pa.table({"user_id": pa.array(window.users, pa.string())}),
        }
        if name == "earlier":
            tables["targets"] = _pairs(known, window.users, *window.targets.nonzero())
        (folder / name).mkdir(parents=True, exist_ok=True)
        for table, rows in tables.items():
            pq.write_table(rows, folder / name / f"{table}.parquet")
    (folder / "plan.json").write_text(
        json.dumps({"cut": cut.astimezone(UTC).isoformat(), "k": plan["k"], "seed": plan["seed"]}), "utf-8"
    )


def _pairs(known: Known, users: list[str], user: np.ndarray, item: np.ndarray) -> pa.Table:
    ids = pa.array(users, pa.string()), pa.array(known.items, pa.string())
    return pa.table({"user_id": ids[0].take(pa.array(user)), "item_id": ids[1].take(pa.array(item))})


def read_lists(folder: Path, known: Known) -> pa.Table:
    """The lists that came back, as the backtest has its own.

    Raises:
        SystemExit: they hold an item that is not available, or that its user had.
    """
    table = pq.read_table(folder / "recommendations.parquet")
    column = {item: number for number, item in enumerate(known.items) if known.available[number]}
    items = np.array([column.get(item, -1) for item in table["item_id"].to_pylist()], dtype=np.int64)
    rows = known.rows(table["user_id"].to_pylist())
    if (items < 0).any() or known.had[rows, items].any():
        raise SystemExit(f"{folder}: there are lists with items that were not to be recommended")
    return table.select(LISTS.names).cast(LISTS)


def judged(
    settings: Settings, plan: Plan, folder: Path, lists: pa.Table
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What Tidemark's lists and those that came back are worth.

    Returns:
        Of each method means of the metrics, coverage, `cold` (NDCG on cold items alone), `lists`, and `ratio` of the plan's first method to
        it; and counts of the window.
    """
    known = known_at(settings, plan, datetime.fromisoformat(plan["cuts"][0]))
    window = window_after(settings, plan, known)
    whole = pa.concat_tables([lists, read_lists(folder, known)])
    pairs, facts = judge({**plan, "methods": [*plan["methods"], *PEERS]}, known, window, whole)
    of_product = pairs.filter(pc.equal(pairs["method"], plan["methods"][0]))["ndcg"].to_numpy()
    found = {}
    for method in pc.unique(pairs["method"]).to_pylist():
        own = pairs.filter(pc.equal(pairs["method"], method))
        found[method] = {
            **{name: float(pc.mean(own[name]).as_py()) for name in ("ndcg", "recall", "hit_rate", "mrr")},
            "cold": float(np.nanmean(own["cold_ndcg"].to_numpy())),
            "coverage": facts["coverage"][method],
            "lists": pc.count_distinct(whole.filter(pc.equal(whole["method"], method))["user_id"]).as_py(),
            "ratio": metrics.bootstrap_ratio(of_product, own["ndcg"].to_numpy(), plan["seed"]),
        }
    return found, window.counts


def show(
    name: str, plan: Plan, found: dict[str, dict[str, Any]], counts: dict[str, int], training: dict[str, Any]
) -> None:
    """A table of the methods, the best first."""
    print(
        f"\n{name}: one cut, {plan['cuts'][0]}, and {plan['every']} behind it; {counts['pairs']:,} users, {counts['targets']:,} targets"
    )
    columns = ("ndcg", "recall", "hit_rate", "mrr", "cold", "coverage")
    print(f"{'method':18}" + "".join(f"{column:>10}" for column in columns) + f"{'lists':>7}{'tidemark to it':>26}")
    for method, values in sorted(found.items(), key=lambda each: -each[1]["ndcg"]):
        ratio = values["ratio"]
        text = "" if ratio["ratio"] is None else f"{ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        print(
            f"{method:18}" + "".join(f"{values[column]:10.4f}" for column in columns) + f"{values['lists']:7}{text:>26}"
        )
    for method, values in training.items():
        best = values["curve"][values["epochs"] - 1]
        print(
            f"{method}: {values['epochs']} epochs of {len(values['curve'])} tried, loss {values['curve'][0]['loss']:.3f} to {best['loss']:.3f}, "
            f"NDCG {best['ndcg']:.4f} in the window before; {values['cpu_seconds']:.0f} CPU s"
        )


def draw(training: dict[str, dict[str, Any]], path: Path) -> None:
    """Loss, and NDCG of the window before the cut, by epoch."""
    figure = Figure(figsize=(10, 3.2 * len(training)), layout="constrained")
    for row, (method, values) in zip(figure.subplots(len(training), 2, squeeze=False), training.items(), strict=True):
        for axes, name in zip(row, ("loss", "ndcg"), strict=True):
            axes.plot(range(1, len(values["curve"]) + 1), [epoch[name] for epoch in values["curve"]])
            axes.axvline(values["epochs"], linestyle=":", color="grey")
            axes.set(title=f"{method}: {name}", xlabel="epoch")
    figure.savefig(path, format="svg")


def environment(folder: Path) -> Path:
    """The Python of the environment that RecTools has; made where it is not there."""
    python, done = folder / "bin" / "python", folder / "done"
    wanted = HERE / "requirements.txt"
    if not done.exists() or done.read_text("utf-8") != wanted.read_text("utf-8"):
        print(f"making the environment of RecTools in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(wanted)], check=True)
        done.write_text(wanted.read_text("utf-8"), "utf-8")
    return python


def main() -> None:
    """Run and print a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sets", nargs="+", choices=EVERY, default=list(EVERY), metavar="NAME", help=f"of {', '.join(EVERY)}"
    )
    parser.add_argument("--keep", type=Path, help="a folder for homes and results; by default they are taken away")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="of RecTools (default %(default)s)")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    python = environment(arguments.environment.absolute())
    with tempfile.TemporaryDirectory() as temporary:
        scratch = (arguments.keep or Path(temporary)).absolute()
        for name in arguments.sets:
            data = SETS[name].folder or demo.fetch(Settings(home=scratch / "demo"), name)
            if not data.is_dir():
                print(f"\n{name}: left out, {data} is not here")
                continue
            home, folder = scratch / name / "home", scratch / name / "neural-peers"
            tidemark(home, "land", data, "--format", SETS[name].format)
            tidemark(home, "clean")
            settings = Settings(home=home)
            plan = plan_backtest(settings, every=EVERY[name], cuts=1, methods=OWN)
            export(settings, plan, folder)
            subprocess.run(
                [str(python), str(HERE / "train.py"), str(folder)],
                check=True,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            )
            users = pq.read_table(folder / "cut" / "users.parquet")["user_id"].to_pylist()
            lists, _, _ = recommend_as_of(settings, plan, plan["cuts"][0], users)
            found, counts = judged(settings, plan, folder, lists)
            training = json.loads((folder / "training.json").read_text("utf-8"))
            draw(training, folder / "curves.svg")
            show(name, plan, found, counts, training)


if __name__ == "__main__":
    main()
