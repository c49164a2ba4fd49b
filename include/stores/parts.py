"""Parts of a candidate's work: what shards write, each part a file of its own, and what the joining step reads.

Work on many keys is cut into parts of a fixed size, whatever the number of shards, so that results never depend on that
number. Shard k of n does the parts k, k + n, k + 2n, … A part is written without the writer's lock: only its candidate
reads it. Written again, it is replaced by the same.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from include.errors import TidemarkError
from include.settings import Settings
from include.stores import files
from include.stores.publications import candidate_folder

KEYS, INPUTS, SECONDS = b"keys", b"inputs", b"seconds"


@dataclass(frozen=True)
class Part:
    """Some of the keys that a step works on, in their order; `number` counts from 0 to `of` - 1."""

    step: str
    number: int
    of: int
    keys: tuple[str, ...]


def cut(step: str, keys: Sequence[str], size: int) -> list[Part]:
    """Cut keys into parts of a size, at least one, which may be empty."""
    of = max(1, -(-len(keys) // size))
    return [Part(step, number, of, tuple(keys[number * size : (number + 1) * size])) for number in range(of)]


def of_shard(parts: list[Part], shard: int | None, shards: int) -> list[Part]:
    """The parts that one of the shards does; None stands for all shards."""
    return parts if shard is None else parts[shard::shards]


def _file(settings: Settings, candidate: str, part: Part) -> Any:
    return candidate_folder(settings, candidate) / "parts" / part.step / f"{part.number:06d}.arrow"


def _note(part: Part, inputs: dict[str, Any]) -> dict[bytes, bytes]:
    """What a part was computed from: its keys, and what names all else that its rows follow from."""
    keys = hashlib.sha256(json.dumps([part.of, *part.keys]).encode()).hexdigest()
    return {KEYS: keys.encode(), INPUTS: json.dumps(inputs, sort_keys=True).encode()}


def _matches(rows: pa.Table, note: dict[bytes, bytes]) -> bool:
    return all(rows.schema.metadata[key] == value for key, value in note.items())


def write(
    settings: Settings, candidate: str, part: Part, inputs: dict[str, Any], rows: pa.Table, seconds: float
) -> None:
    """Keep a part's rows, whole or not at all.

    Args:
        inputs: what names everything that the rows follow from beside the keys.
        rows: their first column is the key.
        seconds: how long it took.
    """
    note = {**_note(part, inputs), SECONDS: f"{seconds:.3f}".encode()}
    files.write_table(_file(settings, candidate, part), rows.replace_schema_metadata(note))


def is_written(settings: Settings, candidate: str, part: Part, inputs: dict[str, Any]) -> bool:
    """Whether a part is there, computed from these keys and inputs."""
    file = _file(settings, candidate, part)
    return bool(file.exists()) and _matches(files.read_table(file), _note(part, inputs))


def read(
    settings: Settings, candidate: str, parts: list[Part], inputs: dict[str, Any], *, some: bool = False
) -> Iterator[tuple[Part, pa.Table, float]]:
    """Every part with its rows and the seconds that it took, in their order.

    Args:
        some: whether a key may be without a row.

    Raises:
        TidemarkError: a part is missing, or holds anything but what was planned.
    """
    names = {
        part.number: f"part {part.number + 1} of {part.of} of {part.step} of candidate {candidate}" for part in parts
    }
    for part in parts:
        if not _file(settings, candidate, part).exists():
            raise TidemarkError(f"{names[part.number]} is missing: run that step again, or start again from the plan")
    for part in parts:
        rows = files.read_table(_file(settings, candidate, part))
        keys = rows.column(0).to_pylist()
        there = set(keys)
        planned = [key for key in part.keys if key in there] if some else list(part.keys)
        if not _matches(rows, _note(part, inputs)) or keys != planned:
            raise TidemarkError(f"{names[part.number]} holds something else than was planned: run that step again")
        yield part, rows.replace_schema_metadata(None), float(rows.schema.metadata[SECONDS])


def forget(settings: Settings, candidate: str, step: str) -> None:
    """Remove the parts of a step."""
    files.remove_folder(candidate_folder(settings, candidate) / "parts" / step)


def left_behind(settings: Settings, candidate: str, step: str, inputs: dict[str, Any]) -> Iterator[pa.Table]:
    """The rows of a step's parts that are there and were computed from these inputs."""
    wanted = json.dumps(inputs, sort_keys=True).encode()
    for file in sorted((candidate_folder(settings, candidate) / "parts" / step).glob("*.arrow")):
        with suppress(FileNotFoundError):  # its own run may join it meanwhile
            rows = files.read_table(file)
            if rows.schema.metadata[INPUTS] == wanted:
                yield rows.replace_schema_metadata(None)
