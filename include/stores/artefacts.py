"""Artefacts: what was learned and frozen, as safetensors beside a JSON description. Never changed once written."""

import hashlib
import json
from datetime import datetime
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load, save

from include.errors import BadInput
from include.settings import Settings
from include.stores import files

Tensors = dict[str, NDArray[Any]]


def write(
    settings: Settings, kind: str, tensors: Tensors, description: dict[str, Any], texts: dict[str, str] | None = None
) -> str:
    """Keep an artefact and return its id, which names its content.

    Args:
        settings: where artefacts are kept.
        kind: what it is, as a publication names it.
        tensors: its arrays.
        description: its training span (`lake_snapshot`, `trained_from`, `trained_until`), encoder, item ids and settings.
        texts: what is kept as text, by file name.
    """
    content, texts = save(tensors), texts or {}
    named = content + json.dumps([description, texts] if texts else description, sort_keys=True, default=str).encode()
    digest = hashlib.sha256(named).hexdigest()
    name = f"{kind}-{digest[:12]}"
    folder = settings.artefacts / name
    # The description is written last: with it the artefact is there. Another run that keeps the same one writes the same.
    if not (folder / "artefact.json").exists():
        files.write(folder / "tensors.safetensors", content)
        for file, text in texts.items():
            files.write(folder / file, text.encode())
        files.write_json(folder / "artefact.json", {"id": name, "kind": kind, **description})
    return name


def describe(settings: Settings, name: str) -> dict[str, Any]:
    """What an artefact says of itself.

    Raises:
        BadInput: there is no such artefact.
    """
    file = settings.artefacts / name / "artefact.json"
    if not file.exists():
        raise BadInput(f"artefact {name} is not in {settings.artefacts}: retrain with `python -m include rebuild`")
    return dict(json.loads(file.read_text("utf-8")))


def read(settings: Settings, name: str) -> tuple[Tensors, dict[str, Any]]:
    """An artefact's arrays and description."""
    description = describe(settings, name)
    return load((settings.artefacts / name / "tensors.safetensors").read_bytes()), description


def read_text(settings: Settings, name: str, file: str) -> str:
    """One of an artefact's texts."""
    return str((settings.artefacts / name / file).read_text("utf-8"))


def names(settings: Settings) -> list[str]:
    """Ids of all artefacts."""
    return sorted(file.parent.name for file in settings.artefacts.glob("[a-z]*/artefact.json"))


def newest(settings: Settings, kind: str, *, until: datetime, matching: dict[str, Any]) -> str | None:
    """The artefact of a kind that was trained last before `until`, with the given encoder and settings."""
    candidates = []
    for file in settings.artefacts.glob(f"{kind}-*/artefact.json"):
        found = json.loads(file.read_text("utf-8"))
        if datetime.fromisoformat(found["trained_until"]) <= until and all(
            found.get(k) == v for k, v in matching.items()
        ):
            candidates.append((found["trained_until"], found["lake_snapshot"], found["id"]))
    return max(candidates)[2] if candidates else None
