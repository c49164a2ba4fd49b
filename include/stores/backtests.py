"""The files of backtests: what each cut found, the results, and the scratch folders of homes beside the home."""

import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from include.errors import BadInput
from include.settings import Settings
from include.stores import files

FOLDER = "backtests"


def _scratch(settings: Settings) -> Path:
    return settings.work / FOLDER


@contextmanager
def scratch(settings: Settings) -> Iterator[Path]:
    """A local folder for a home beside this one; it is gone afterwards."""
    folder = _scratch(settings) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch_folders(settings: Settings) -> list[Path]:
    """Those that are there: of backtests under way, or that were killed."""
    return sorted(_scratch(settings).glob("*"))


def folder(settings: Settings, name: str) -> Path:
    """Where the results of a backtest are that named no folder."""
    return settings.reports / FOLDER / name


def checked(settings: Settings, out: str) -> Path:
    """The folder that a backtest is to write its results to, made and tried: what cannot be written is found before the work.

    Raises:
        BadInput: it is none that can be written to, an address, or among the stores of the home.
    """
    if "://" in out:
        raise BadInput(
            f"--out {out}: is an address; name a folder on this machine, or leave it out: then the home keeps the results"
        )
    found = Path(out).expanduser().resolve()
    if not files.is_remote(settings.home):
        home = settings.home.resolve()
        if found.is_relative_to(home) and not found.is_relative_to(settings.reports.resolve()):
            raise BadInput(
                f"--out {out}: is among what the home keeps; name a folder outside {home}, or in its reports"
            )
    try:
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=found):
            pass
    except OSError as error:
        raise BadInput(f"--out {out}: nothing can be written there ({error.strerror}); name another folder") from error
    return found


def _cut(out: Path, cut: str) -> Path:
    return out / "cuts" / "".join(char for char in cut if char.isalnum())


def write_cut(out: Path, backtest: str, cut: str, facts: dict[str, Any], tables: dict[str, pa.Table]) -> None:
    """Keep what one cut of a backtest found, of which the results are made."""
    for name, table in tables.items():
        files.write_table(_cut(out, cut) / f"{name}.arrow", table)
    files.write_json(_cut(out, cut) / "facts.json", {"backtest": backtest, **facts})


def read_cut(out: Path, cut: str) -> dict[str, Any]:
    """The facts of a cut."""
    facts = dict(json.loads((_cut(out, cut) / "facts.json").read_text("utf-8")))
    facts.pop("backtest", None)
    return facts


def has_cut(out: Path, backtest: str, cut: str) -> bool:
    """Whether an earlier try of the same backtest found what there is of a cut: its facts are written last."""
    file = _cut(out, cut) / "facts.json"
    return file.is_file() and json.loads(file.read_text("utf-8")).get("backtest") == backtest


def read_table(out: Path, cut: str, name: str) -> pa.Table:
    """A table of a cut."""
    return files.read_table(_cut(out, cut) / f"{name}.arrow")


def write_results(out: Path, recommendations: pa.Table, metrics: dict[str, Any], page: str) -> None:
    """Write the results, each file whole."""
    files.write_parquet(out / "recommendations.parquet", recommendations)
    files.write_json(out / "metrics.json", metrics)
    files.write(out / "report.html", page.encode("utf-8"))


def keep_cuts(out: Path, cuts: list[str]) -> None:
    """Drop what a folder holds of other cuts, from a backtest before. What these cuts found stays, to make the results again."""
    kept = {_cut(out, cut) for cut in cuts}
    for found in (out / "cuts").iterdir():
        if found not in kept:
            files.remove_folder(found)


def _freshness(settings: Settings, surface: str) -> Path:
    return settings.reports / "freshness" / f"{surface}.json"


def write_freshness(settings: Settings, surface: str, record: dict[str, Any]) -> None:
    """Keep in the home what the newest backtest with freshness found of a surface, wherever its results went."""
    files.write_json(_freshness(settings, surface), record)


def read_freshness(settings: Settings, surface: str) -> dict[str, Any] | None:
    """What was kept of a surface; None where it was never measured."""
    file = _freshness(settings, surface)
    return dict(json.loads(file.read_text("utf-8"))) if file.exists() else None


def read_metrics(out: Path) -> dict[str, Any]:
    """The metrics of a backtest."""
    return dict(json.loads((out / "metrics.json").read_text("utf-8")))


def write_cost(out: Path, cost: dict[str, Any]) -> None:
    """Keep what an encoder of a comparison costs, beside its backtest."""
    files.write_json(out / "cost.json", cost)


def read_cost(out: Path) -> dict[str, Any]:
    """What `write_cost` kept."""
    return dict(json.loads((out / "cost.json").read_text("utf-8")))


def write_comparison(out: Path, result: dict[str, Any], page: str) -> None:
    """Write the results of a comparison of encoders."""
    files.write_json(out / "encoders.json", result)
    files.write(out / "encoders.html", page.encode("utf-8"))
