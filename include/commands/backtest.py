"""The command `backtest`, and its tables."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from include.commands.options import (
    Cuts,
    Every,
    LastWindowEnd,
    ListLength,
    OfSurface,
    ResultsFolder,
    Seed,
    home,
    listed,
    moment,
)
from include.commands.output import CONSOLE, interval, print_table
from include.durations import duration
from include.readable import readable

app = typer.Typer()


@app.command()
def backtest(
    every: Every,
    cuts: Cuts,
    out: ResultsFolder,
    k: ListLength = 10,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B", help="By default the product and every peer that fits the surface.")
    ] = None,
    surface: OfSurface = "home",
    until: LastWindowEnd = None,
    seed: Seed = None,
    freshness: Annotated[
        bool,
        typer.Option("--freshness", help="Measure, too, what lists are worth that are made anew more or less often."),
    ] = False,
) -> None:
    """Recommend as of cuts in the past, compare with what users then did, and with strong simple peers.

    Example: python -m include backtest --every 7d --cuts 4 --k 10 --out backtest
    """
    from tqdm import tqdm

    duration(every)  # before what takes seconds to import
    from include.steps.backtest import backtest_cut, plan_backtest
    from include.steps.report_backtest import report_backtest

    settings = home()
    named = listed(methods)
    plan = plan_backtest(
        settings,
        every=every,
        cuts=cuts,
        k=k,
        surface=surface,
        methods=named,
        until=moment(until, "--until"),
        seed=seed,
        out=out,
        freshness=freshness,
    )
    logging.getLogger("include").setLevel(logging.WARNING)  # the bar says how far it is
    with tqdm(total=len(plan["cuts"]) * (len(plan["methods"]) + freshness), unit="list", desc="backtest") as bar:
        for cut in plan["cuts"]:

            def progress(method: str, cut: str = cut) -> None:
                bar.set_description(f"as of {cut[:16]}: {method}")
                bar.update()

            backtest_cut(settings, plan, cut, progress)
    _show_backtest(Path(report_backtest(settings, plan)["out"]))


def _show_backtest(out: Path) -> None:
    from include.steps.report_backtest import ranked
    from include.stores.backtests import read_metrics

    found = read_metrics(out)

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    k = found["backtest"]["k"]
    table = Table(
        "method", f"NDCG@{k}", "recall", "hit rate", "MRR", "NDCG, cold", "coverage", "novelty", "of best peer"
    )
    for name, method in ranked(found):
        ratio = found["against_best_peer"].get(name)
        table.add_row(
            name,
            *(number(method[metric]) for metric in ("ndcg", "recall", "hit_rate", "mrr")),
            number(method["cold_items"]["ndcg"]),
            *(number(method[what]) for what in ("coverage", "novelty")),
            "" if ratio is None else interval(ratio),
        )
    print_table(table)
    counts = found["counts"]
    CONSOLE.print(
        f"{counts['pairs']:,} pairs of {counts['users']:,} users and {len(found['cuts'])} cuts; columns are means over pairs, "
        "ratios are of means over users, each once"
    )
    for name, why in found["refused"].items():
        CONSOLE.print(f"left out: {name}: {why}")
    for failed in found["failed_gates"]:
        CONSOLE.print(f"a gate failed as of {failed['cut']}: {readable(failed['gate'], 200)}")
    if found["best_peer"] is not None:
        CONSOLE.print(f"best peer: {found['best_peer']}")
    if found["ratio"] is not None:
        CONSOLE.print(f"tidemark / {found['best_peer']}: {interval(found['ratio'])}, 95 % by drawing users")
    if found["vectors_against_ease"] is not None:
        CONSOLE.print(f"tidemark_vectors / ease: {interval(found['vectors_against_ease'])}, 95 % by drawing users")
    if "freshness" in found:
        _show_freshness(found["freshness"], k)
    CONSOLE.print(f"written: {out}")


def _show_freshness(found: dict[str, Any], k: int) -> None:
    from include.models.freshness import CADENCES

    CONSOLE.print(f"freshness: {found['rows']:,} rows of hour and user, {found['users']:,} users")
    for name, curve in sorted(found["curves"].items()):
        table = Table(name, f"NDCG@{k}", f"to {curve['against']}", "to the best")
        for cadence, facts in ((each, curve["cadences"][each]) for each in CADENCES if each in curve["cadences"]):
            table.add_row(cadence, f"{facts['ndcg']:.4f}", interval(facts["ratio"]), interval(facts["of_best"]))
        print_table(table)
        CONSOLE.print(f"{name}: as good as the best at: {curve['rewarded'] or '- (no list had a hit)'}")
    for cadence, why in found["left_out"].items():
        CONSOLE.print(f"left out: {cadence}: {why}")
