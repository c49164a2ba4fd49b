"""What an encoder learns from: read as of the end of the training span, and as of the end of the window behind it."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.models.contrastive import Ints, Lesson, Pairs, make_pairs, near_documents
from include.models.sparse import picked
from include.models.texts import item_texts, text_hash
from include.settings import Encoder, Training
from include.stores import behaviour

NEIGHBOURS = 50
"""Nearest items of a target that its hard negatives are drawn from."""
MOST_NEIGHBOURS_AMONG = 20_000
"""Of more items some are drawn to look for neighbours among: the search grows with the square."""


class Documents:
    """Texts by number, as the encoder is given them: with whose prefix."""

    def __init__(self, encoder: Encoder) -> None:
        self._prefixes = {"item": encoder.item_prefix, "user": encoder.user_prefix}
        self._number: dict[str, int] = {}
        self._rows: list[tuple[str, str, str]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def number(self, kind: str, text: str) -> int:
        """The number of a text; -1 of an empty one."""
        if not text:
            return -1
        name = text_hash(self._prefixes[kind] + text)
        if name not in self._number:
            self._number[name] = len(self._rows)
            self._rows.append((name, text, kind))
        return self._number[name]

    def table(self) -> pa.Table:
        """`text_hash, text, kind`, in the order of their numbers."""
        columns = list(zip(*self._rows, strict=True)) or [(), (), ()]
        names = ("text_hash", "text", "kind")
        return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})


@dataclass(frozen=True)
class Events:
    """What everyone did and wrote before a T, by document; items as of T."""

    user: list[str]
    user_of: Ints
    ts: NDArray[np.int64]
    document: Ints
    taken: NDArray[np.bool_]
    items: Ints
    """Documents of the items that can be listed at T."""


def read_events(connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, documents: Documents) -> Events:
    """Everything before T that has a text and speaks for it; nothing at or after T."""
    users = behaviour.users(connection, snapshot, as_of)
    items = behaviour.items(connection, snapshot, as_of)
    done = behaviour.interactions(connection, snapshot, as_of, users, items["item_id"].to_pylist())
    wrote = behaviour.user_texts(connection, snapshot, as_of, users)
    of_item = np.array([documents.number("item", text) for text in item_texts(items)], dtype=np.int64)
    of_text = np.array([documents.number("user", text) for text in wrote.text], dtype=np.int64)
    item_documents = picked(of_item, done.item, -1)
    document = np.concatenate([item_documents, of_text])
    weight = np.concatenate([done.weight, wrote.weight])
    user_of = np.concatenate([done.user, wrote.user])
    ts = np.concatenate([done.event_ts, wrote.event_ts]).astype("datetime64[us]").astype(np.int64)
    taken = np.arange(len(document)) < len(done.user)
    speaks = (document >= 0) & (weight > 0)
    available = np.array(items["available"].to_pylist(), dtype=bool)
    return Events(
        users, user_of[speaks], ts[speaks], document[speaks], taken[speaks], np.unique(of_item[available & (of_item >= 0)])
    )  # fmt: skip


def read_lesson(
    connection: duckdb.DuckDBPyConnection, plan: dict[str, Any], training: Training, seed: int, encoder: Encoder
) -> tuple[Lesson, pa.Table]:
    """Pairs of the training span and of the window behind it.

    Args:
        connection: the lake.
        plan: what `plan_training` gave: `lake_snapshot`, and the ends of both spans.
        training: the settings.
        seed: of what is drawn.
        encoder: whose prefixes the texts get.

    Returns:
        What is learned from, without neighbours (see `with_neighbours`), and the documents.
    """
    documents = Documents(encoder)
    train_end, stop_end = (datetime.fromisoformat(plan[name]) for name in ("train_until", "stop_until"))
    early = read_events(connection, plan["lake_snapshot"], train_end, documents)
    late = read_events(connection, plan["lake_snapshot"], stop_end, documents)
    count = len(documents)
    everyone = {name: number for number, name in enumerate(sorted({*early.user, *late.user}))}
    draw = np.random.default_rng(seed)

    def numbered(events: Events) -> Ints:
        numbers = np.array([everyone[name] for name in events.user], dtype=np.int64)
        return numbers[events.user_of] if len(numbers) else events.user_of

    def had(events: Events) -> Ints:
        return np.unique((numbered(events) * count + events.document)[events.taken])

    def some(rows: Ints, most: int) -> Ints:
        return rows if len(rows) <= most else np.sort(draw.choice(rows, most, replace=False))

    train = make_pairs(
        numbered(early), early.ts, early.document, early.taken,
        history=training.history, most=training.pairs_per_user,
    )  # fmt: skip
    stop = make_pairs(
        numbered(late), late.ts, late.document, late.taken,
        history=training.history, known_until=int(np.datetime64(behaviour.naive(train_end), "us").astype(np.int64)),
    )  # fmt: skip
    stop = stop.take(some(np.arange(len(stop)), training.stop_pairs))
    lesson = Lesson(
        train=train,
        taken=had(early),
        near=np.zeros((count, 0), dtype=np.int64),
        stop=stop,
        candidates=some(late.items, training.stop_candidates),
        stop_taken=had(late),
        documents=count,
    )
    return lesson, documents.table()


def with_neighbours(lesson: Lesson, kinds: list[str], vectors: NDArray[np.float32], seed: int) -> Lesson:
    """The same with the items near each target, by the frozen encoder's vectors of norm 1.

    Items alone, and of those that the training span knew: what is first seen behind it is no negative.
    """
    known = np.unique(np.append(lesson.taken % max(lesson.documents, 1), lesson.train.target))
    items = known[[kinds[number] == "item" for number in known]] if len(known) else known
    if len(items) > MOST_NEIGHBOURS_AMONG:
        items = np.sort(np.random.default_rng(seed).choice(items, MOST_NEIGHBOURS_AMONG, replace=False))
    near = near_documents(vectors, np.unique(lesson.train.target), items, NEIGHBOURS)
    return replace(lesson, near=near)


def lesson_tensors(lesson: Lesson) -> dict[str, NDArray[Any]]:
    """A lesson as arrays."""
    found: dict[str, NDArray[Any]] = {}
    for name in ("train", "stop"):
        pairs: Pairs = getattr(lesson, name)
        found |= {f"{name}.{part}": getattr(pairs, part) for part in ("user", "history", "target")}
    found |= {name: getattr(lesson, name) for name in ("taken", "near", "candidates", "stop_taken")}
    return found | {"documents": np.array([lesson.documents], dtype=np.int64)}


def lesson_of(tensors: dict[str, NDArray[Any]]) -> Lesson:
    """The inverse of `lesson_tensors`."""

    def pairs(name: str) -> Pairs:
        return Pairs(*(tensors[f"{name}.{part}"] for part in ("user", "history", "target")))

    others = {name: tensors[name] for name in ("taken", "near", "candidates", "stop_taken")}
    return Lesson(train=pairs("train"), stop=pairs("stop"), documents=int(tensors["documents"][0]), **others)
