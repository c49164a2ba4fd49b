"""Runs suites of expectations on frames through one checkpoint and writes the result into the Data Docs."""

import html
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

from include.quality.results import MAX_EXAMPLES, MAX_TEXT, GateResult, plain
from include.readable import for_page
from include.settings import Settings

log = logging.getLogger(__name__)

SITE = "tidemark"
KEPT_RESULTS = 200  # pages in the Data Docs: older ones are dropped, since each run renders the whole index
EXAMPLES = "examples"  # a column of this name holds lists of examples of its own, and is not judged
NO_THRESHOLD = {"column", "column_A", "column_B", "column_list", "batch_id", "row_condition", "condition_parser"}


@dataclass(frozen=True)
class Judged:
    """A frame, the suite it must meet, and which columns name a row in an example."""

    suite: gx.ExpectationSuite
    frame: pd.DataFrame
    shown: Sequence[str] = ()


def at_least(share: float, count: int) -> int:
    """The smallest whole number that is at least this share of a count, in spite of binary fractions."""
    return math.ceil(round(share * count, 9))


def run_gate(name: str, judged: Iterable[Judged], settings: Settings) -> GateResult:
    """Run one checkpoint over all suites of a gate.

    An expectation that cannot be evaluated (a column is missing, a value has the wrong type) counts as failed.
    """
    parts = {part.suite.name: part for part in judged}
    if not parts:
        return GateResult(name, passed=True, expectations=0, failed=[])
    with _reports(settings) as reports:
        expectations, failed = _judge(name, parts, reports)
    docs = settings.reports / "data_docs" / "index.html"
    log.info("gate %s: %d of %d expectations failed; Data Docs: %s", name, len(failed), expectations, docs)
    return GateResult(name, not failed, expectations, failed, str(docs))


def _judge(name: str, parts: dict[str, Judged], reports: Path) -> tuple[int, list[dict[str, Any]]]:
    """Run the checkpoint and write its pages; returns how many expectations there were, and those that failed."""
    context = _context(reports)
    frames = context.data_sources.add_pandas("frames")
    run_id = gx.RunIdentifier(run_name=name, run_time=datetime.now(UTC))
    expectations, failed, pages = 0, [], []
    for suite_name, part in parts.items():
        frame = part.frame.reset_index(drop=True)
        batch = frames.add_dataframe_asset(suite_name).add_batch_definition_whole_dataframe(suite_name)
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=suite_name, data=batch, suite=context.suites.add(part.suite))
        )
        # One checkpoint a frame: a checkpoint hands one frame to all its definitions.
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(
                name=suite_name,
                validation_definitions=[definition],
                result_format={"result_format": "SUMMARY", "partial_unexpected_count": MAX_EXAMPLES},
            )
        )
        # Great Expectations writes values into its pages as they are.
        batch_parameters = {"dataframe": _escaped(frame.drop(columns=EXAMPLES, errors="ignore"))}
        result = checkpoint.run(batch_parameters=batch_parameters, run_id=run_id)
        for page, validation in result.run_results.items():
            pages.append(page)
            expectations += len(validation.results)
            failed += [_failure(suite_name, found, part, frame) for found in validation.results if not found.success]
    context.build_data_docs(site_names=[SITE], resource_identifiers=pages)
    return expectations, failed


def _escaped(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every text as a page may hold it; equal texts stay equal and different ones different."""
    texts = [name for name in frame if pd.api.types.is_string_dtype(frame[name]) or frame[name].dtype == object]
    # Each text once: a list names an item over and over.
    once = cache(lambda value: for_page(value, MAX_TEXT))
    escaped = {
        str(name): frame[name].map(lambda value: once(value) if isinstance(value, str) else value) for name in texts
    }
    return frame.assign(**escaped)


def _unescaped(value: Any) -> Any:
    if isinstance(value, str):
        return html.unescape(value)
    if isinstance(value, dict):
        return {key: _unescaped(inner) for key, inner in value.items()}
    return [_unescaped(inner) for inner in value] if isinstance(value, list) else value


@contextmanager
def _reports(settings: Settings) -> Iterator[Path]:
    """The reports as a local folder, which Great Expectations needs: of a home on an object store a copy, taken there after.

    The results of earlier runs come with it, since the index of the Data Docs is made from them.
    """
    kept: Any = settings.reports
    if isinstance(kept, Path):
        yield kept
        return
    settings.work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=settings.work, prefix="reports-") as name:
        here = Path(name)
        if (kept / "validations").exists():
            kept.fs.get(f"{kept.path}/validations", name, recursive=True)
        before = _names(here)
        yield here
        after = _names(here)
        new = sorted(after - before)
        kept.fs.put([str(here / file) for file in new], [f"{kept.path}/{file}" for file in new])
        if gone := sorted(before - after):
            kept.fs.rm([f"{kept.path}/{file}" for file in gone])


def _names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def _context(reports: Path) -> Any:
    """A context without telemetry or progress bars: only results are kept, for the index of the Data Docs."""
    defaults = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    results = reports / "validations"
    _drop_old(results)
    defaults.stores[defaults.validation_results_store_name]["store_backend"] = _folder(results)
    config = DataContextConfig(
        store_backend_defaults=defaults,
        data_docs_sites={
            SITE: {
                "class_name": "SiteBuilder",
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "site_section_builders": {"expectations": "None", "profiling": "None"},
                "show_how_to_buttons": False,
                "store_backend": _folder(reports / "data_docs"),
            }
        },
        analytics_enabled=False,
        progress_bars={"globally": False},
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _folder(path: Path) -> dict[str, str]:
    # Great Expectations reads a bare `$` as a variable of its own.
    return {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(path.absolute()).replace("$", r"\$")}


def _drop_old(results: Path) -> None:
    """Keep room for one more result: the pages of dropped ones go with the next index."""
    files = sorted(results.rglob("*.json"), key=lambda file: (file.parent.name, file))  # in folders named by run time
    for file in files[: max(0, len(files) - KEPT_RESULTS)]:
        file.unlink(missing_ok=True)


def _failure(suite: str, found: Any, part: Judged, frame: pd.DataFrame) -> dict[str, Any]:
    """One failed expectation in our words."""
    expectation, result = found.expectation_config, found.result
    kwargs = expectation.kwargs
    columns = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs] or kwargs.get(
        "column_list", []
    )
    threshold = {key: value for key, value in kwargs.items() if key not in NO_THRESHOLD and value is not None}
    examples: list[Any] = []
    if "partial_unexpected_list" in result:
        observed: Any = {
            "rows": f"{result['unexpected_count']} of {result['element_count']}",
            "values": result["partial_unexpected_list"][:MAX_EXAMPLES],
        }
        rows = frame.loc[result.get("partial_unexpected_index_list", [])[:MAX_EXAMPLES]]
        if EXAMPLES in frame:
            examples = [example for listed in rows[EXAMPLES] for example in listed]
        else:
            examples = rows[[*dict.fromkeys([*part.shown, *columns])]].to_dict("records")
    elif "observed_value" in result:
        observed = result["observed_value"]
        examples = sorted(map(str, frame[columns[0]].dropna().unique()[:MAX_EXAMPLES])) if columns else []
    else:
        observed = _exception(found.exception_info)
    return {
        "suite": suite,
        "expectation": expectation.type,
        "column": ", ".join(columns) or None,
        "observed": plain(_unescaped(observed)),
        "threshold": plain(threshold),
        "note": plain(expectation.notes),
        "examples": plain(examples[:MAX_EXAMPLES]),
    }


def _exception(info: dict[str, Any]) -> str:
    """The message of an expectation that could not be evaluated."""
    raised = info if "exception_message" in info else next(iter(info.values()), {})
    return f"not evaluated: {raised.get('exception_message')}"
