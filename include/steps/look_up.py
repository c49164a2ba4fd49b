"""Pages of one user and of one item in the Airflow UI: what a publication holds of them, and why."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from include.columns import USER_VECTORS, VectorTable
from include.models.comparison import movement
from include.settings import Settings
from include.steps import show
from include.steps.compare import TOP, comparable
from include.steps.templates import rendered
from include.stores import lake, publications

FOLLOWED = 10
"""Publications, at most, over which a page follows a user."""


@lake.attached_once
def user_page(settings: Settings, user_id: str, publication: str | None = None) -> str:
    """A user's history, interests and lists with their reasons, and how they went from publication to publication, as HTML.

    Args:
        publication: its id; by default the one that serves.

    Raises:
        BadInput: the publication is not there, or does not know the user.
    """
    found = show.of_user(settings, user_id, publication)
    followed = follow(settings, user_id, found["publication"], FOLLOWED)
    return rendered(
        "user.html.jinja",
        user=found,
        followed=followed,
        vectors=USER_VECTORS,
        why=show.why,
        segment_in_words=show.segment_in_words,
        top=TOP,
    )


@lake.attached_once
def item_page(settings: Settings, item_id: str, publication: str | None = None) -> str:
    """An item's versions and the items whose texts are nearest, as HTML.

    Raises:
        BadInput: the publication is not there, or does not know the item.
    """
    return rendered("item.html.jinja", item=show.of_item(settings, item_id, publication))


def follow(settings: Settings, user_id: str, publication: str, most: int) -> list[dict[str, Any]]:
    """How a user's vectors and lists went from publication to publication: what an hour or a repair did to this user.

    Args:
        settings: all settings.
        user_id: whose.
        publication: the last one; those before it are of its encoder and its line.
        most: publications to tell of.

    Returns:
        The newest first: `id`, `as_of`, `kind`, `n_interactions` (None without a history), `moved` (since the one before, one
        minus the cosine by vector) and `lists` (by surface, how many of the first ten items were not among them before). None
        where there is nothing to compare with, as where two trainings made the vectors.
    """
    last = publications.manifest(settings, publication)
    until = [
        entry
        for entry in sorted(publications.manifests(settings), key=publications.order)
        if (entry["encoder_id"], publications.line_of(entry)) == (last["encoder_id"], publications.line_of(last))
        and publications.order(entry) <= publications.order(last)
    ]
    found = [
        (
            entry,
            show.row_of(settings, entry, VectorTable.USERS, user_id),
            show.lists_of(settings, entry, user_id),
        )
        for entry in until[-most - 1 :]
    ]
    steps = [_step(before, after) for before, after in zip([None, *found], found, strict=False)]
    return steps[: -most - 1 : -1]


Row = dict[str, Any] | None
Held = tuple[publications.Manifest, Row, dict[str, Row]]
"""A publication, and what it holds of a user: the row of vectors, and by surface that of the list."""


def _step(before: Held | None, after: Held) -> dict[str, Any]:
    """What one publication did to a user since the one before it."""
    manifest, vector, lists = after
    moved: dict[str, float | None] = dict.fromkeys(USER_VECTORS)
    new: dict[str, int | None] = dict.fromkeys(lists)
    if before is not None:
        earlier, old, known = before
        if vector is not None and old is not None:
            for name in comparable(earlier, manifest)[0]:
                moved[name] = float(movement(_array(old[name]), _array(vector[name]))[0])
        for surface, listed in lists.items():
            one = known.get(surface)
            if one is not None and listed is not None:
                new[surface] = len(set(listed["items"][:TOP]) - set(one["items"][:TOP]))
    return {
        **{name: manifest[name] for name in ("id", "as_of", "kind")},
        "n_interactions": vector and vector["n_interactions"],
        "moved": moved,
        "lists": new,
    }


def _array(vector: list[float]) -> NDArray[np.float32]:
    return np.asarray([vector], dtype=np.float32)
