"""Homes as odd as real ones may be: each publishes lists that pass the gates, and a backtest ends in numbers or says why not."""

import math
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from include.errors import BadInput
from include.settings import Settings, Surface
from include.steps.backtest import backtest_cut, plan_backtest
from include.steps.doctor import doctor
from include.steps.land import land
from include.steps.plan import plan_recommend
from include.steps.report_backtest import report_backtest
from include.stores import backtests
from tests import samples
from tests.test_backtest import RANKER, Rows, event
from tests.test_path import cleaned, lists, published

HOURS, USERS, ITEMS = 12, 20, 15
SURFACES = (Surface(name="home", show_seen=True), Surface(name="new"))


def did(user: int | str, item: int | str, hours: float) -> dict[str, Any]:
    when = samples.FIRST + timedelta(hours=hours)
    return event(when, user_id=f"u{user}", item_id=f"i{item}", event_type="purchase")


def always_the_same() -> Rows:
    return [did(user, user % ITEMS, hour + user / 100) for user in range(USERS) for hour in range(HOURS)]


def everyone_had_everything() -> Rows:
    return [did(user, item, item * HOURS / ITEMS + user / 100) for user in range(USERS) for item in range(ITEMS)]


def one_thing_each() -> Rows:
    return [did(n, n, n * HOURS / 200) for n in range(200)]


def one_user_did_nearly_all_and_ids_are_long() -> Rows:
    drawn, long = random.Random(1), "x" * 1000  # noqa: S311
    users = ["big"] * 2000 + [f"{long}{drawn.randrange(USERS)}" for _ in range(100)]
    return [did(user, f"{long}{drawn.randrange(ITEMS)}", drawn.random() * HOURS) for user in users]


def a_crowd_in_the_last_hour() -> Rows:
    drawn = random.Random(1)  # noqa: S311
    usual = [did(drawn.randrange(USERS), drawn.randrange(ITEMS), drawn.random() * 10) for _ in range(300)]
    return [*usual, *(did(drawn.randrange(USERS), "hot", 11 + n / 600) for n in range(400))]


ODD: list[Callable[[], Rows]] = [
    always_the_same,
    everyone_had_everything,
    one_thing_each,
    one_user_did_nearly_all_and_ids_are_long,
    a_crowd_in_the_last_hour,
]


def numbers(found: Any) -> Iterator[float]:
    """Every number in nested results."""
    if isinstance(found, dict | list):
        for value in found.values() if isinstance(found, dict) else found:
            yield from numbers(value)
    elif isinstance(found, float):
        yield found


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
def test_an_odd_home_has_lists_and_a_backtest(odd: Callable[[], Rows], tmp_path: Path, text_cache: Path) -> None:
    settings = Settings(home=tmp_path / "home", surfaces=SURFACES, ranker=RANKER)
    settings.text_vectors.parent.mkdir(parents=True, exist_ok=True)
    settings.text_vectors.symlink_to(text_cache)
    rows = [{**row, "event_id": f"e{n}"} for n, row in enumerate(odd())]
    land(settings, samples.write(tmp_path / "events.jsonl", rows), format="canonical", arrival="event")
    items = samples.write(tmp_path / "items.jsonl", samples.items(ITEMS))
    land(settings, items, format="canonical", arrival=samples.FIRST)
    cleaned(settings)
    made = published(settings, plan_recommend(settings))
    shown = lists(settings, made)
    assert shown.keys() == {row["user_id"] for row in rows}
    assert all(row["items"] for row in shown.values()), (
        "what was had may be shown again, so there is something for everyone"
    )
    plan = plan_backtest(settings, every="3h", cuts=1, k=5, methods=[], out=tmp_path / "out", freshness=True)
    facts = backtest_cut(settings, plan, plan["cuts"][0])
    if odd is one_thing_each:
        assert facts["pairs"] == 0
        with pytest.raises(BadInput, match="choose longer ones"):
            report_backtest(settings, plan)
    else:
        report_backtest(settings, plan)
        metrics = backtests.read_metrics(tmp_path / "out")
        assert metrics["failed_gates"] == []
        assert "tidemark" in metrics["methods"]
        assert all(map(math.isfinite, numbers(metrics)))
    told = [line for line in doctor(settings, settings.encoder)["advice"] if "interactions" in line]
    assert len(told) == (odd is one_user_did_nearly_all_and_ids_are_long)
    assert all(line.startswith("user ubig has ") for line in told)
