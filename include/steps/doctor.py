"""A look at the whole home: settings, versions, stores, disk, stale batches, and what to do about each finding."""

import shutil
import sys
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any

from include.models import encoder
from include.readable import readable
from include.settings import Encoder, Settings, Surface
from include.steps.check_batches import overdue
from include.steps.check_served import judge_served
from include.steps.clean import said_of_vanished
from include.stores import backtests, batches, behaviour, erasures, files, lake, publications

PACKAGES = (
    "apache-airflow",
    "dbt-core",
    "dbt-duckdb",
    "duckdb",
    "great-expectations",
    "lancedb",
    "torch",
    "transformers",
)
LITTLE_DISK_GB = 5.0
MOST_OF_ONE = 0.2
"""Of all interactions, from which on one user's are told of, where there are `ENOUGH`."""

ENOUGH = 1000
LATE = timedelta(days=1)
"""After the last event, from which on the T of what serves is told of."""


@lake.attached_once
def doctor(settings: Settings, set_encoder: Encoder | None = None) -> dict[str, Any]:
    """Gather the state of the home and what asks for attention.

    Args:
        settings: all settings, of the opened home.
        set_encoder: the encoder that the environment names, where that may be another than the home's.

    Returns:
        `versions`, `home`, `settings_hash`, `encoder_id`, `lake`, `publication`, `disk_gb`, `stale_batches`,
        `unfinished_batches`, `freshness` (for each surface which cadence the data reward), `erasures` (how many runs of
        `forget` ended, and when the last did) and `advice`, each advice one line with the command that mends it.
    """
    stale = batches.stale(settings)
    unfinished = batches.unfinished(settings)
    gated = lake.gated_snapshot(settings)
    newest = lake.newest_snapshot(settings) if lake.exists(settings) else None
    serving = publications.serving_id(settings)
    shown = None if serving is None else publications.manifest(settings, serving)
    encoder_id = encoder.identify(settings.encoder)
    measured = {surface.name: backtests.read_freshness(settings, surface.name) for surface in settings.surfaces}
    disk = _disk_gb(settings)
    advice = [
        *_of_the_disk(disk),
        *_of_the_lake(stale, unfinished, newest, gated),
        *(["nothing serves yet: run `python -m include run`"] if serving is None else []),
        *_of_the_events(settings, gated, shown),
        *_of_what_serves(settings, serving),
        *_of_the_encoder(settings, set_encoder, encoder_id, encoder_id if shown is None else shown["encoder_id"]),
        *_of_challengers(settings),
        *(said for surface in settings.surfaces for said in _trends_advice(surface, measured[surface.name])),
    ]
    erased = erasures.read(settings)
    return {
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
        "home": str(settings.home),
        "settings_hash": settings.hash,
        "encoder_id": encoder_id,
        "lake": {"newest_snapshot": newest, "gated_snapshot": gated},
        "publication": serving,
        "disk_gb": disk,
        "stale_batches": [batch.as_dict() for batch in stale],
        "unfinished_batches": sorted(f"{table} {hour:%Y-%m-%dT%H}" for table, hour in unfinished),
        "freshness": {name: _freshness(settings, name, record) for name, record in measured.items()},
        "erasures": {"count": len(erased), "last": erased[-1]["at"] if erased else None},
        "advice": advice,
    }


def _disk_gb(settings: Settings) -> dict[str, float]:
    """Gigabytes that are free for work, and that each folder of the home takes."""
    settings.work.mkdir(parents=True, exist_ok=True)
    return {
        "free": round(shutil.disk_usage(settings.work).free / 1e9, 1),
        **{
            folder.name: round(files.size(folder) / 1e9, 3)
            for folder in (
                settings.landing,
                settings.lake,
                settings.vectors,
                settings.artefacts,
                settings.publications,
                settings.cache,
            )
        },
    }


def _of_the_disk(gigabytes: dict[str, float]) -> list[str]:
    if gigabytes["free"] >= LITTLE_DISK_GB:
        return []
    return [f"only {gigabytes['free']} GB are free: run `python -m include maintain` (docs/runbooks/disk_full.md)"]


def _of_the_lake(
    stale: list[batches.Stale], unfinished: set[tuple[str, datetime]], newest: int | None, gated: int | None
) -> list[str]:
    """What is not cleaned, or not gated."""
    advice: list[str] = []
    if unfinished:
        advice.append(
            f"a clean did not finish ({len(unfinished)} batches): run `python -m include clean` (docs/runbooks/red_dbt_model.md)"
        )
    vanished = [batch.as_dict() for batch in stale if batch.state == "vanished"]
    if late := overdue(stale):  # what lands in this hour is cleaned when it is over
        advice.append(
            f"{len(late)} batches changed since they were cleaned: run `python -m include clean` or backfill them (docs/runbooks/stale_batch.md)"
        )
    if vanished:
        advice.append(said_of_vanished(vanished))
    if newest is not None and gated != newest:
        advice.append(
            f"lake snapshot {newest} has not passed the gate: run `python -m include clean` (docs/runbooks/failed_gate.md)"
        )
    return advice


def _of_the_events(settings: Settings, gated: int | None, serving: publications.Manifest | None) -> list[str]:
    """What is odd about events that every gate let pass."""
    if gated is None:
        return []
    with lake.connect(settings) as connection:
        busiest, end = behaviour.busiest_user(connection, gated), behaviour.end_of_events(connection, gated)
    advice: list[str] = []
    if busiest is not None and busiest[2] >= ENOUGH and busiest[1] > MOST_OF_ONE * busiest[2]:
        user, own, total = busiest
        advice.append(
            f"user {readable(user)} has {own:,} of {total:,} interactions: where that id stands for nobody, deliver these events "
            "without one (docs/bring-your-own-data.md)"
        )
    if end is not None and serving is not None:
        as_of = datetime.fromisoformat(serving["as_of"])
        if as_of - end > LATE:
            advice.append(
                f"what serves is as of {as_of:%Y-%m-%dT%H:%M}, {(as_of - end).days} days after the last events, as where later ones "
                f"were taken back: run `python -m include recommend --as-of {end:%Y-%m-%dT%H:%M} --serve` to go back to their end"
            )
    return advice


def _of_what_serves(settings: Settings, serving: str | None) -> list[str]:
    """Whether it is pinned, and which of its lists were no better than popularity."""
    advice: list[str] = []
    if publications.pinned(settings):
        advice.append(
            f"serving is pinned to {serving}: run `python -m include publications unpin` when the cause is mended"
        )
    advice += [
        f"lists of {name} were no better than recent popularity on any of the last {each['days']} scored days: "
        "run `python -m include quality` (docs/runbooks/served_lists.md)"
        for name, each in judge_served(settings).items()
        if each["failed"]
    ]
    return advice


def _of_the_encoder(settings: Settings, set_encoder: Encoder | None, encoder_id: str, serves: str) -> list[str]:
    """Where the encoder that serves, the home's and the one of the environment are not the same."""
    advice: list[str] = []
    if serves != encoder_id:
        advice.append(
            f"encoder {serves} serves and the settings name encoder {encoder_id}, so "
            "nothing is updated: set it back, or switch to it (docs/runbooks/switch_encoder.md)"
        )
    if set_encoder is not None and set_encoder.named != settings.encoder.named:
        advice.append(
            f"the settings still name the encoder {set_encoder.source}, which a switch took out of use: set "
            f"{settings.encoder.set_instead_of(set_encoder)} when it suits you, all at once"
        )
    return advice


def _of_challengers(settings: Settings) -> list[str]:
    return [
        f"challenger {name} waits: run `python -m include publications approve {name}` or `… reject {name}` "
        "(docs/runbooks/switch_encoder.md)"
        for name in publications.shadows(settings)
    ]


def _freshness(settings: Settings, surface: str, record: dict[str, Any] | None) -> str:
    """What the newest backtest with freshness found of a surface, in words."""
    if record is None:
        command = f"python -m include backtest --every 14d --cuts 2 --surface {surface} --freshness --out DIR"
        return f"which cadence the data reward is not measured yet: run `{command}`"
    backtest, curves = record["backtest"], record["freshness"]["curves"]
    whose = "" if backtest["settings_hash"] == settings.hash else " with other settings"
    when = f"backtest as of {backtest['as_of'][:16]}{whose}, {len(backtest['cuts'])} cuts every {backtest['every']}"
    said = [
        f"{what} {_made(curves[name]['rewarded'], backtest['every'])}"
        for name, what in (("lists", "lists"), ("trends", "trends"), ("popularity", "recent popularity alone"))
        if name in curves and curves[name]["rewarded"] is not None
    ]
    return f"{'; '.join(said)}: the slowest not shown to be worse ({when})" if said else f"nothing was shown ({when})"


def _made(cadence: str, every: str) -> str:
    return f"that stay for {every}" if cadence == "never" else f"made anew {cadence}"


def _trends_advice(surface: Surface, record: dict[str, Any] | None) -> list[str]:
    """Where the surface's setting is not what the data reward; nothing where daily trends were not measured."""
    curve = {} if record is None else record["freshness"]["curves"].get("trends", {})
    if curve.get("against") != "daily" or curve["rewarded"] is None:
        return []
    ratio = curve["cadences"]["hourly"]["ratio"]
    if ratio["low"] is None:
        hourly_pays, worth = curve["cadences"]["hourly"]["ndcg"] > 0.0, "had hits, and daily ones had none"
    else:
        hourly_pays = ratio["low"] > 1.0
        worth = f"were worth {ratio['ratio']:.3f} times ({ratio['low']:.3f} to {ratio['high']:.3f}) daily ones"
    if surface.trends == "daily" and hourly_pays:
        found = f"hourly trends {worth}"
        return [f"surface {surface.name}: {found}: set `trends` to `hourly` in TIDEMARK_SURFACES"]
    if surface.trends == "hourly" and not hourly_pays:
        found = "hourly trends were not shown to be worth more than daily ones"
        return [f"surface {surface.name}: {found}: set `trends` to `daily` in TIDEMARK_SURFACES"]
    return []
