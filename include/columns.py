"""Names of the tables and columns that more than one part of Tidemark speaks of, and how exact scores are."""

from collections.abc import Iterable
from typing import Final

DECIMALS: Final = 6
"""Of every score in a list, so that what is equal but for rounding is in order of ids."""


class Reason:
    """Parts of a score in the reasons of lists, beside those of the ranker or of the blend."""

    EXPLORATION: Final = "exploration"
    """The place is kept for a new item: then it is all of the score, which is that of the place above."""

    SEGMENT: Final = "segment"
    """Of a user without a history: what popularity in the segment adds to the overall one."""


class Mart:
    """Tables of the behaviour lake that are read outside dbt."""

    INTERACTIONS: Final = "fct_interactions"
    USER_TEXTS: Final = "fct_user_texts"
    ITEMS: Final = "dim_items"
    USERS: Final = "dim_users"
    REJECTED: Final = "fct_rejected_rows"
    BATCHES: Final = "audit_batches"


class VectorTable:
    """Tables of the vector store."""

    TEXTS: Final = "text_vectors"
    ITEMS: Final = "item_vectors"
    USERS: Final = "user_vectors"

    @staticmethod
    def recommendations(surface: str) -> str:
        """Name of the table that holds a surface's lists."""
        return f"recommendations_{surface}"


class Artefact:
    """Kinds of what is trained and named in a publication."""

    TEXT_MEAN: Final = "text_mean"
    ITEM_FACTORS: Final = "item_factors"
    SOURCES: Final = "sources"

    @staticmethod
    def ranker(repeats: bool) -> str:
        """What orders lists, of surfaces that show what a user had, or of those that do not."""
        return "ranker_repeats" if repeats else "ranker"


USER_VECTORS: Final = ("long", "short", "behaviour")
"""Columns of the user vectors that every user has; the several interests come beside them."""

INTEREST_SHARES: Final = "interest_shares"
"""Column of the user vectors: what part of a history each of the several interests is."""


def interest_columns(names: Iterable[str]) -> list[str]:
    """Those of a table's columns that hold the several interests, `interest_1`, `interest_2`, … in order of weight."""
    found = (name for name in names if name.startswith("interest_") and name != INTEREST_SHARES)
    return sorted(found, key=lambda name: int(name.removeprefix("interest_")))


LANDED_TABLES: Final = ("events", "items", "users")
