"""Publish, also where another run published since the candidate was planned: nothing that either brought is lost."""

import logging
from datetime import datetime, timedelta
from typing import Any

from include.settings import Settings
from include.steps.chain import STEPS
from include.steps.plan import plan_recommend, plan_update
from include.steps.publish import Overtaken, publish, summary_of
from include.stores import publications

log = logging.getLogger(__name__)


def publish_on_newest(settings: Settings, candidate: str, *, serve: bool | None = None) -> dict[str, Any]:
    """Publish a candidate; where it was overtaken, plan the same anew on the newest publication and take it through every step.

    An hourly update and the day's fresh lists overlap each midnight. As each was planned, the later one would take the other's
    hour of events or its lists back, or would not serve. Runs again after it was killed, it finds the same.

    Args:
        settings: all settings.
        candidate: a candidate that went through every step.
        serve: as `publish` has it.

    Returns:
        As `publish` does.

    Raises:
        GateFailed: a gate is missing or did not pass.
    """
    while True:
        try:
            return publish(settings, candidate, serve=serve)
        except Overtaken as overtaken:
            log.warning("%s, so it is planned anew on that", overtaken)
        plan = _planned_anew(settings, publications.candidate(settings, candidate))
        if plan["candidate"] is None:
            found = publications.manifest(settings, plan["publication"])
            return summary_of(found, publications.serving_id(settings) == found["id"])
        candidate = plan["candidate"]
        for step in STEPS:
            step(settings, candidate)


def _planned_anew(settings: Settings, state: dict[str, Any]) -> dict[str, Any]:
    if state["kind"] == "recommend":
        asked = state["asked"]
        as_of = None if asked["as_of"] is None else datetime.fromisoformat(asked["as_of"])
        late = timedelta(seconds=asked["late_s"])
        return plan_recommend(settings, as_of, beyond_data=asked["beyond_data"], late=late)
    newest = publications.newest_of(settings, state["line"])
    assert newest is not None
    return plan_update(settings, max(datetime.fromisoformat(each["as_of"]) for each in (state, newest)))
