"""The gate on item vectors and user vectors."""

from collections.abc import Sequence

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.row_conditions import Column

from include.quality.results import GateResult
from include.quality.run import Judged, at_least, run_gate
from include.settings import Gates, Settings


def item_suite(gates: Gates, dimension: int, expected: int) -> gx.ExpectationSuite:
    """What the vectors of items must meet. An item without text has no vector to judge."""
    with_text = Column("has_text") == True  # noqa: E712
    return gx.ExpectationSuite(
        name="vectors_items",
        expectations=[
            *_keys("item_id", gates.min_item_coverage, expected),
            *_values("dimension", {dimension}),
            *_values("finite", {True}),
            gxe.ExpectColumnValuesToNotBeNull(column="has_text"),
            gxe.ExpectColumnValuesToNotBeNull(column="norm", row_condition=with_text),
            gxe.ExpectColumnValuesToBeBetween(
                column="norm",
                min_value=1 - gates.norm_tolerance,
                max_value=1 + gates.norm_tolerance,
                row_condition=with_text,
                notes="the vector of an item with text has norm 1",
            ),
        ],
    )


def user_suite(gates: Gates, dimension: int, expected: int) -> gx.ExpectationSuite:
    """What the interest vectors of users must meet: norm 1, or 0 where nothing in the history has text."""
    norms = [
        expectation
        for column in ("norm_long", "norm_short")
        for expectation in (
            gxe.ExpectColumnValuesToNotBeNull(column=column),
            gxe.ExpectColumnValuesToBeBetween(
                column=column,
                min_value=1 - gates.norm_tolerance,
                max_value=1 + gates.norm_tolerance,
                row_condition=Column(column) > 0.5,
                notes="an interest vector has norm 1 or 0",
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column=column,
                min_value=0,
                max_value=gates.norm_tolerance,
                row_condition=Column(column) <= 0.5,
                notes="an interest vector has norm 1 or 0",
            ),
        )
    ]
    return gx.ExpectationSuite(
        name="vectors_users",
        expectations=[
            *_keys("user_id", gates.min_user_coverage, expected),
            *_values("dimension", {dimension}),
            *_values("finite", {True}),
            *norms,
            gxe.ExpectColumnValuesToNotBeNull(column="interests_off"),
            gxe.ExpectColumnValuesToBeBetween(
                column="interests_off",
                min_value=0,
                max_value=gates.norm_tolerance,
                notes="each of several interests has norm 1, or 0 where there are fewer",
            ),
            gxe.ExpectColumnValuesToNotBeNull(column="n_interactions"),
            gxe.ExpectColumnValuesToBeBetween(column="n_interactions", min_value=0),
        ],
    )


def encoder_suite() -> gx.ExpectationSuite:
    """Vectors of two encoders never meet."""
    return gx.ExpectationSuite(
        name="vectors_encoder",
        expectations=[
            gxe.ExpectColumnValuesToNotBeNull(column="encoder_id"),
            gxe.ExpectColumnUniqueValueCountToBeBetween(
                column="encoder_id", min_value=1, max_value=1, notes="all tables and the manifest name one encoder id"
            ),
        ],
    )


def check_vectors(
    items: pd.DataFrame,
    users: pd.DataFrame,
    encoder_ids: Sequence[str | None],
    settings: Settings,
    *,
    expected_items: int,
    expected_users: int,
    dimension: int,
) -> GateResult:
    """Judge a candidate's vectors by what was measured on them.

    Args:
        items: `item_id, has_text, dimension, norm, finite`, one row a vector.
        users: `user_id, n_interactions, dimension, norm_long, norm_short, interests_off (how far the worst
            norm of several interests is from 0 or 1), finite`, one row a user.
        encoder_ids: those that the tables' metadata and the manifest name.
        expected_items: items that should have a vector.
        expected_users: users with history, who should have vectors.
        dimension: length of the encoder's vectors.
    """
    gates = settings.gates
    named = pd.DataFrame({"encoder_id": pd.Series(list(encoder_ids), dtype="str")})
    return run_gate(
        "vectors",
        [
            Judged(item_suite(gates, dimension, expected_items), items, shown=("item_id",)),
            Judged(user_suite(gates, dimension, expected_users), users, shown=("user_id",)),
            Judged(encoder_suite(), named),
        ],
        settings,
    )


def _keys(column: str, coverage: float, expected: int) -> list[gxe.Expectation]:
    return [
        gxe.ExpectColumnValuesToNotBeNull(column=column),
        gxe.ExpectColumnValuesToBeUnique(column=column),
        gxe.ExpectTableRowCountToBeBetween(
            min_value=at_least(coverage, expected),
            notes=f"coverage: at least {coverage:g} of {expected} have a vector",
        ),
    ]


def _values(column: str, allowed: set[bool] | set[int]) -> list[gxe.Expectation]:
    # Every other expectation lets nulls through.
    return [
        gxe.ExpectColumnValuesToNotBeNull(column=column),
        gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(allowed)),
    ]
