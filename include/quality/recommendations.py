"""The gate on a surface's recommendations."""

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd

from include.quality.results import GateResult
from include.quality.run import Judged, at_least, run_gate
from include.settings import Gates, Settings, Surface


def list_suite(surface: Surface, listed: int) -> gx.ExpectationSuite:
    """What each row of the lists must meet.

    Args:
        listed: rows that the users' lists should have together.
    """
    required = ("user_id", "item_id", "rank", "score", "available", "seen")
    expectations: list[gxe.Expectation] = [gxe.ExpectColumnValuesToNotBeNull(column=column) for column in required]
    expectations += [
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["user_id", "item_id"], notes="no item twice in a list"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["user_id", "rank"], notes="no rank twice in a list"),
        gxe.ExpectColumnValuesToBeBetween(column="rank", min_value=1, max_value=surface.length),
        gxe.ExpectColumnValuesToBeBetween(
            column="score",
            min_value=-float(np.finfo("float64").max),
            max_value=float(np.finfo("float64").max),
            notes="scores are finite",
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="available", value_set=[True], notes="items exist and are available at T"
        ),
        gxe.ExpectTableRowCountToEqual(value=listed, notes="every row of a list belongs to a listed user"),
    ]
    if not surface.show_seen:
        expectations.append(
            gxe.ExpectColumnValuesToBeInSet(
                column="seen", value_set=[False], notes=f"the surface {surface.name} shows nothing seen"
            )
        )
    return gx.ExpectationSuite(name=f"recommendations_{surface.name}_lists", expectations=expectations)


def user_suite(surface: Surface) -> gx.ExpectationSuite:
    """What the lists of users must meet: one a user, as long as it can be."""
    return gx.ExpectationSuite(
        name=f"recommendations_{surface.name}_users",
        expectations=[
            gxe.ExpectColumnValuesToNotBeNull(column="user_id"),
            gxe.ExpectColumnValuesToBeUnique(column="user_id"),
            gxe.ExpectColumnValuesToNotBeNull(column="listed"),
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="listed",
                column_B="due",
                notes=f"a list holds {surface.length} items, or all eligible ones where fewer, and new ones up to that length",
            ),
            gxe.ExpectColumnPairValuesToBeEqual(
                column_A="listed", column_B="rows", notes="the lists hold as many rows of a user as were listed"
            ),
        ],
    )


def coverage_suite(
    gates: Gates, surface: Surface, expected_users: int, eligible_items: int | None
) -> gx.ExpectationSuite:
    """How many users must have a list, and (unless None) how many of the eligible items must be in one."""
    expectations: list[gxe.Expectation] = [
        gxe.ExpectColumnValuesToBeBetween(
            column="listed_users",
            min_value=at_least(gates.min_user_coverage, expected_users),
            notes=f"at least {gates.min_user_coverage:g} of {expected_users} users have a list",
        )
    ]
    if eligible_items is not None:
        expectations.append(
            gxe.ExpectColumnValuesToBeBetween(
                column="listed_items",
                min_value=at_least(gates.min_catalogue_coverage, eligible_items),
                notes=f"at least {gates.min_catalogue_coverage:g} of {eligible_items} eligible items are in a list",
            )
        )
    return gx.ExpectationSuite(name=f"recommendations_{surface.name}_coverage", expectations=expectations)


def check_recommendations(
    lists: pd.DataFrame,
    users: pd.DataFrame,
    surface: Surface,
    settings: Settings,
    *,
    expected_users: int,
    eligible_items: int,
    listed_users: int,
) -> GateResult:
    """Judge a candidate's lists for one surface.

    Args:
        lists: `user_id, item_id, rank` (from 1)`, score, available, seen`, one row an item of a list. `available` says
            whether the item exists and is available at T, `seen` whether the user already had it.
        users: `user_id, eligible, new?, listed`: how many items must be in the user's list, as far as it goes, how many new ones
            may be beside them, and how many are.
        expected_users: users who should have a list.
        eligible_items: items that could be in some list.
        listed_users: users who have a list, also where `lists` and `users` hold only those whose list is new. How much of the
            catalogue the lists cover is judged only when all lists are there.
    """
    rows = users["user_id"].map(lists["user_id"].value_counts()).fillna(0).astype("int64")
    least = users["eligible"].clip(upper=surface.length)
    most = (users["eligible"] + users.get("new", 0)).clip(upper=surface.length)
    lengths = users.assign(due=users["listed"].fillna(least).clip(lower=least, upper=most), rows=rows)
    whole = listed_users <= len(users)
    coverage = pd.DataFrame({"listed_users": [listed_users], "listed_items": [lists["item_id"].nunique()]})
    return run_gate(
        f"recommendations_{surface.name}",
        [
            Judged(list_suite(surface, int(users["listed"].sum())), lists, shown=("user_id", "item_id", "rank")),
            Judged(user_suite(surface), lengths, shown=("user_id", "eligible")),
            Judged(
                coverage_suite(settings.gates, surface, expected_users, eligible_items if whole else None), coverage
            ),
        ],
        settings,
    )
