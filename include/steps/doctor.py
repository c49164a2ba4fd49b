"""A look at the whole home: settings, versions, stores, disk, stale batches, and what to do about each finding."""

import shutil
import sys
from importlib.metadata import version
from typing import Any

from include.models import encoder
from include.settings import Encoder, Settings
from include.stores import batches, files, lake, publications

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


def doctor(settings: Settings, set_encoder: Encoder | None = None) -> dict[str, Any]:
    """Gather the state of the home and what asks for attention.

    Args:
        settings: all settings, of the opened home.
        set_encoder: the encoder that the environment names, where that may be another than the home's.

    Returns:
        `versions`, `home`, `encoder_id`, `lake`, `publication`, `disk_gb`, `stale_batches` and `advice`, each advice one
        line with the command that mends it.
    """
    advice: list[str] = []
    stale = batches.stale_batches(settings)
    unfinished = batches.unfinished(settings)
    gated = lake.gated_snapshot(settings)
    newest = lake.newest_snapshot(settings) if lake.exists(settings) else None
    serving = publications.serving_id(settings)
    settings.work.mkdir(parents=True, exist_ok=True)
    disk = {
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
    if disk["free"] < LITTLE_DISK_GB:
        advice.append(f"only {disk['free']} GB are free: run `python -m include maintain` (docs/runbooks/disk_full.md)")
    if unfinished:
        advice.append(
            f"a clean did not finish ({len(unfinished)} batches): run `python -m include clean` (docs/runbooks/red_dbt_model.md)"
        )
    if stale:
        advice.append(
            f"{len(stale)} batches changed since they were cleaned: run `python -m include clean` or backfill them (docs/runbooks/stale_batch.md)"
        )
    if newest is not None and gated != newest:
        advice.append(
            f"lake snapshot {newest} has not passed the gate: run `python -m include clean` (docs/runbooks/failed_gate.md)"
        )
    if serving is None:
        advice.append("nothing serves yet: run `python -m include run`")
    if publications.pinned(settings):
        advice.append(
            f"serving is pinned to {serving}: run `python -m include publications unpin` when the cause is mended"
        )
    encoder_id = encoder.identify(settings.encoder)
    serves = encoder_id if serving is None else publications.manifest(settings, serving)["encoder_id"]
    if serves != encoder_id:
        advice.append(
            f"encoder {serves} serves and the settings name encoder {encoder_id}, so "
            "nothing is updated: set it back, or switch to it (docs/runbooks/switch_encoder.md)"
        )
    if set_encoder is not None and set_encoder.named != settings.encoder.named:
        advice.append(
            f"the settings still name the encoder {set_encoder.source}, which a switch took out of use: set "
            f"TIDEMARK_ENCODER__SOURCE={settings.encoder.source} when it suits you"
        )
    advice += [
        f"challenger {name} waits: run `python -m include publications approve {name}` or `… reject {name}` "
        "(docs/runbooks/switch_encoder.md)"
        for name in publications.shadows(settings)
    ]
    return {
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
        "home": str(settings.home),
        "settings_hash": settings.hash,
        "encoder_id": encoder_id,
        "lake": {"newest_snapshot": newest, "gated_snapshot": gated},
        "publication": serving,
        "disk_gb": disk,
        "stale_batches": stale,
        "unfinished_batches": sorted(f"{table} {hour:%Y-%m-%dT%H}" for table, hour in unfinished),
        "advice": advice,
    }
