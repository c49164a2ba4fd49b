"""The files of a training of the encoder: what is learned from, checkpoints to go on from, and the report.

They are in the home's cache, so that any worker can go on; maintenance takes them away, and the report is left.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import load, save

from include.settings import Settings
from include.stores import files

Tensors = dict[str, NDArray[Any]]
FOLDER = "training"
PROGRESS = "progress"
"""The tensor of a checkpoint that holds JSON as bytes: one file, so that it appears whole."""


def _runs(settings: Settings) -> Path:
    return settings.cache / FOLDER


def _run(settings: Settings, name: str) -> Path:
    return _runs(settings) / name


def runs(settings: Settings) -> list[Path]:
    """Folders of trainings, under way or over."""
    return sorted(_runs(settings).glob("*"))


def folder(settings: Settings, name: str) -> Path:
    """Where the report of a training is that named no folder."""
    return settings.reports / FOLDER / name


def write_lesson(settings: Settings, name: str, lesson: Tensors, documents: pa.Table, facts: dict[str, Any]) -> None:
    """Keep what is learned from; the facts are written last, and with them it is there."""
    files.write(_run(settings, name) / "lesson.safetensors", save(lesson))
    files.write_table(_run(settings, name) / "documents.arrow", documents)
    files.write_json(_run(settings, name) / "facts.json", facts)


def read_facts(settings: Settings, name: str) -> dict[str, Any] | None:
    """What `write_lesson` was told; None where it did not end."""
    return _read(_run(settings, name) / "facts.json")


def read_lesson(settings: Settings, name: str) -> tuple[Tensors, pa.Table]:
    """What is learned from, and the texts of its documents."""
    lesson = load((_run(settings, name) / "lesson.safetensors").read_bytes())
    return lesson, files.read_table(_run(settings, name) / "documents.arrow")


def write_checkpoint(settings: Settings, name: str, way: str, progress: dict[str, Any], tensors: Tensors) -> None:
    """Keep where a training is, in the place of the checkpoint before."""
    content = np.frombuffer(json.dumps(progress).encode(), dtype=np.uint8)
    files.write(_run(settings, name) / f"{way}.safetensors", save({**tensors, PROGRESS: content}))


def read_checkpoint(settings: Settings, name: str, way: str) -> tuple[dict[str, Any], Tensors] | None:
    """The last checkpoint; None where there is none."""
    file = _run(settings, name) / f"{way}.safetensors"
    if not file.exists():
        return None
    tensors = load(file.read_bytes())
    return dict(json.loads(tensors.pop(PROGRESS).tobytes())), tensors


def write_result(settings: Settings, name: str, way: str, result: dict[str, Any]) -> None:
    """Keep what came of a way."""
    files.write_json(_run(settings, name) / f"{way}.json", result)


def read_result(settings: Settings, name: str, way: str) -> dict[str, Any] | None:
    """What came of a way; None where it is not trained yet."""
    return _read(_run(settings, name) / f"{way}.json")


def _read(file: Path) -> dict[str, Any] | None:
    return dict(json.loads(file.read_text("utf-8"))) if file.exists() else None


def write_report(out: Path, result: dict[str, Any], page: str) -> None:
    """Write the report."""
    files.write_json(out / "training.json", result)
    files.write(out / "training.html", page.encode("utf-8"))
