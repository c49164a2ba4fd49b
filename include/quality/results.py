"""What a gate said. Importing this costs nothing: Great Expectations is not needed to read a result."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from include.errors import GateFailed
from include.readable import readable

RUNBOOK = "docs/runbooks/failed_gate.md"
MAX_EXAMPLES = 5
MAX_TEXT = 200


@dataclass(frozen=True)
class GateResult:
    """What a gate said of what it judged.

    Attributes:
        expectations: how many expectations were judged; 0 where nothing had to be.
        failed: one entry a failed expectation: `suite, expectation, column, observed, threshold, note, examples` (up to
            five), all JSON-able and without control characters.
        docs: index page of the Data Docs that hold the whole result; no part of `as_dict`.
    """

    name: str
    passed: bool
    expectations: int
    failed: list[dict[str, Any]]
    docs: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The result as manifests and gate records keep it."""
        return {key: value for key, value in asdict(self).items() if key != "docs"}

    def raise_if_failed(self) -> None:
        """Do nothing if the gate passed.

        Raises:
            GateFailed: with one line a failed expectation: counts, thresholds and examples.
        """
        if self.passed:
            return
        lines = [f"gate {self.name} failed: {len(self.failed)} of {self.expectations} expectations; nothing advances"]
        lines += [_line(entry) for entry in self.failed]
        lines.append(f"see {RUNBOOK}" + (f"; Data Docs: {self.docs}" if self.docs else ""))
        raise GateFailed("\n".join(lines))


def _line(entry: Mapping[str, Any]) -> str:
    column = f" on {entry['column']}" if entry["column"] else ""
    note = f" ({entry['note']})" if entry["note"] else ""
    line = f"  {entry['suite']}: {entry['expectation']}{column}{note}: observed {_words(entry['observed'])}"
    if entry["threshold"]:
        line += f", allowed {_words(entry['threshold'])}"
    if entry["examples"]:
        line += "; for example " + " | ".join(_words(example) for example in entry["examples"])
    return line


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(_words(inner) for inner in value) + "]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "null" if value is None else str(value)


def plain(value: Any) -> Any:
    """The value as JSON can hold it and a log can show it.

    No control characters, no type of numpy or pandas; NaN, with which pandas marks what is missing, becomes None.
    """
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        value = None
    if isinstance(value, Mapping):
        value = {str(plain(key)): plain(inner) for key, inner in value.items()}
    elif isinstance(value, list | tuple | set):
        value = [plain(inner) for inner in value]
    elif isinstance(value, datetime | date):
        value = None if str(value) == "NaT" else value.isoformat()
    elif not (value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))):
        value = readable(str(value), MAX_TEXT)
    return value
