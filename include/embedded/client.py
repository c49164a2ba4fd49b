"""A small client of Airflow's REST API: unpause, trigger, backfill, and watch runs while they go."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from include.errors import TidemarkError

FINISHED = ("success", "failed")
ENDED = {"success", "failed", "skipped", "upstream_failed"}
SHOWN = ENDED | {"running", "up_for_retry"}
TRIES = 5
SILENCE = 300.0  # seconds without a sign of life of the scheduler; where it is busy, a minute is seen
Run = dict[str, Any]


class Client:
    """Talks to one Airflow as one user. `progress` gets one line for each change that is seen."""

    def __init__(self, url: str, user: str, password: str, progress: Callable[[str], None] = print) -> None:
        self.progress = progress
        self._login = {"username": user, "password": password}
        self._http = httpx.Client(base_url=url, timeout=60)
        self._seen: dict[tuple[str, str, str], str] = {}

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """Call the API and return what it answers.

        Raises:
            TidemarkError: it answered with an error; the message holds what it said.
        """
        response = self._request(method, path, **kwargs)
        if response.is_error:
            raise TidemarkError(f"Airflow refused {method} {path} ({response.status_code}): {response.text[:500]}")
        return response.json() if response.content else None

    def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Call, logging in as needed. A busy server drops a call now and then, which is repeated where that can do no harm.

        An error of the server's own is mostly a SQLite that was locked for too long, so nothing was done.
        """
        for attempt in range(1, TRIES + 1):
            try:
                response = self._once(method, path, **kwargs)
            except httpx.TransportError:
                if attempt == TRIES or method != "GET":
                    raise
            else:
                if not response.is_server_error or attempt == TRIES:
                    return response
            time.sleep(2)
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        for _ in range(2):
            if "Authorization" not in self._http.headers:
                answer = self._http.post("/auth/token", json=self._login)
                answer.raise_for_status()
                self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
            response = self._http.request(method, path, **kwargs)
            if response.status_code != 401:
                break
            del self._http.headers["Authorization"]  # the token has expired
        return response

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool, or give the one that is there this size."""
        pool = {"slots": slots, "description": description, "include_deferred": False}
        if self._request("GET", f"/api/v2/pools/{name}").status_code == 404:
            self.call("POST", "/api/v2/pools", json={"name": name, **pool})
        else:
            self.call("PATCH", f"/api/v2/pools/{name}", json={"pool": name, **pool})

    def wait_for_dags(self, dag_ids: list[str], seconds: float = 120) -> None:
        """Wait until these DAGs are parsed.

        Raises:
            TidemarkError: a DAG file does not import, or they did not appear in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            errors = self.call("GET", "/api/v2/importErrors")["import_errors"]
            if errors:
                raise TidemarkError(f"{errors[0]['filename']} does not import: {errors[0]['stack_trace'][-500:]}")
            found = {dag["dag_id"] for dag in self.call("GET", "/api/v2/dags")["dags"]}
            if found >= set(dag_ids):
                return
            time.sleep(1)
        raise TidemarkError(f"DAGs did not appear in {seconds:.0f} s: {sorted(set(dag_ids) - found)}")

    def unpause(self, dag_id: str) -> bool:
        """Let a DAG run. Returns whether it was paused."""
        return self._set_paused(dag_id, False)

    @contextmanager
    def paused(self, dag_id: str) -> Iterator[None]:
        """Let a DAG start nothing meanwhile.

        Where SQLite is locked while Airflow 3.3 makes a backfill, it takes back the runs that it has made, and its scheduler ends if
        it holds one of them by then. It looks at no run of a paused DAG.
        """
        was_paused = self._set_paused(dag_id, True)
        try:
            yield
        finally:
            self._set_paused(dag_id, was_paused)

    def _set_paused(self, dag_id: str, paused: bool) -> bool:
        """Returns whether it was paused before."""
        before = bool(self.call("GET", f"/api/v2/dags/{dag_id}")["is_paused"])
        if before != paused:
            self.call("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": paused})
        return before

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run now, without a data interval of its own. Returns its id."""
        body = {"logical_date": None, "conf": conf or {}}
        run_id = str(self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])
        self.progress(f"{dag_id}: triggered {run_id}")
        return run_id

    def backfill(self, dag_id: str, first: datetime, last: datetime, seconds: float = 1800) -> list[Run]:
        """Run every interval that starts in [first, last] (both included), those that ran before too, and watch them.

        Raises:
            TidemarkError: Airflow refused it, a run failed, or they took too long.
        """
        body = {
            "dag_id": dag_id,
            "from_date": first.isoformat(),
            "to_date": last.isoformat(),
            "reprocess_behavior": "completed",
            "max_active_runs": 1,
        }
        planned = {
            day["logical_date"] for day in self.call("POST", "/api/v2/backfills/dry_run", json=body)["backfills"]
        }
        with self.paused(dag_id):
            deadline = time.monotonic() + 90
            while True:
                response = self._once("POST", "/api/v2/backfills", json=body)
                # 409: the backfill before it counts as active for up to half a minute after its runs have ended.
                waits = response.status_code == httpx.codes.CONFLICT or response.is_server_error
                if not waits or time.monotonic() > deadline:
                    break
                time.sleep(3)
        if response.is_error:
            raise TidemarkError(f"Airflow refused the backfill of {dag_id}: {response.text[:500]}")
        created = datetime.fromisoformat(response.json()["created_at"])
        self.progress(f"{dag_id}: backfill of {len(planned)} runs, {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC")

        def of_backfill() -> list[Run]:
            # An interval that ran before keeps its run, which is queued anew.
            span = {"logical_date_gte": first.isoformat(), "logical_date_lte": last.isoformat()}
            found = {run["logical_date"]: run for run in self.runs(dag_id, **span) if _queued_since(run, created)}
            return [found.get(date, {"dag_run_id": "", "state": "queued"}) for date in sorted(planned)]

        return self._watch(dag_id, of_backfill, seconds)

    def runs(self, dag_id: str, **filters: Any) -> list[Run]:
        """Runs of a DAG, newest first."""
        params = {"order_by": "-run_after", "limit": 100, **filters}
        return list(self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=params)["dag_runs"])

    def new_runs(self, dag_id: str, known: Collection[str], seconds: float) -> list[str]:
        """Ids of the runs that are not among those known, as soon as there are any; none where none came in time."""
        deadline = time.monotonic() + seconds
        while True:
            new = [run["dag_run_id"] for run in self.runs(dag_id) if run["dag_run_id"] not in known]
            if new or time.monotonic() >= deadline:
                return new
            self.check_scheduler()
            time.sleep(1)

    def check_scheduler(self) -> None:
        """See that the scheduler lives: without it, nothing ever starts or ends.

        Raises:
            TidemarkError: it gave no sign of life for a long time.
        """
        last = self.call("GET", "/api/v2/monitor/health")["scheduler"]["latest_scheduler_heartbeat"]
        silent = (datetime.now(UTC) - datetime.fromisoformat(last)).total_seconds() if last else 0.0
        if silent > SILENCE:
            raise TidemarkError(
                f"Airflow's scheduler gave no sign of life for {silent:.0f} s: read its log, and start Airflow again"
            )

    def wait(self, dag_id: str, run_ids: list[str], seconds: float = 1800) -> list[Run]:
        """Watch runs until all have ended.

        Raises:
            TidemarkError: one failed, or they took too long.
        """
        return self._watch(
            dag_id,
            lambda: [self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}") for run_id in run_ids],
            seconds,
        )

    def wait_for_asset(self, asset: str, dag_id: str, seconds: float = 1800) -> Run | None:
        """Watch the DAG that an asset triggers until a run that began after the asset's newest event has succeeded.

        Airflow may leave an event out of the run that it leads to, when a run of the event before it is still to start. So
        what counts is when a run began: it asks the lake what changed, and finds it.

        Returns:
            That run, or None where the asset has no event yet.

        Raises:
            TidemarkError: it failed, or took too long.
        """
        params = {"name_pattern": asset, "order_by": "-timestamp", "limit": 1}
        events = self.call("GET", "/api/v2/assets/events", params=params)["asset_events"]
        if not events:
            return None
        newest = datetime.fromisoformat(events[0]["timestamp"])

        def since_event() -> list[Run]:
            runs = self.runs(dag_id)
            waiting = [run for run in runs if run["state"] not in FINISHED]
            began = [run for run in runs if run["start_date"] and datetime.fromisoformat(run["start_date"]) >= newest]
            return waiting[-1:] or began[:1] or [{"dag_run_id": "", "state": "queued"}]

        return self._watch(dag_id, since_event, seconds)[0]

    def _watch(self, dag_id: str, find: Callable[[], list[Run]], seconds: float) -> list[Run]:
        deadline = said = time.monotonic() + seconds
        while True:
            runs = find()
            for run in runs:
                if run["dag_run_id"] and self._show_tasks(dag_id, run["dag_run_id"]):
                    said = time.monotonic()
            failed = [run["dag_run_id"] for run in runs if run["state"] == "failed"]
            if failed:
                raise TidemarkError(
                    f"{dag_id}: run {failed[0]} failed: see its red tasks in the UI, or {self.reason(dag_id, failed[0])}"
                )
            if runs and all(run["state"] in FINISHED for run in runs):
                return runs
            now = time.monotonic()
            if now > deadline:
                raise TidemarkError(f"{dag_id}: not ended after {seconds:.0f} s")
            if now - said > 15 or said == deadline:
                self.check_scheduler()
                said = now
                self.progress(f"{dag_id}: {', '.join(sorted({run['state'] for run in runs})) or 'waiting to start'} …")
            time.sleep(1)

    def _show_tasks(self, dag_id: str, run_id: str) -> bool:
        """Show each task whose state changed since last time. Returns whether any did.

        Of a mapped task, those that failed are shown by name, and all others by number once the last one has ended.
        """
        tasks = self.tasks(dag_id, run_id)
        changed = False
        for task in tasks:
            mapped = task["map_index"] >= 0
            if mapped and task["state"] not in (None, "failed"):
                continue
            name = f"{task['task_id']} {task['rendered_map_index'] or ''}".strip()
            if task["state"] in SHOWN and self._is_news(
                (dag_id, run_id, name), f"{task['state']}/{task['try_number']}"
            ):
                changed = True
                took = f" ({task['duration']:.1f} s)" if task["duration"] and task["state"] in FINISHED else ""
                self.progress(f"  {dag_id} {name}: {task['state']}{took}")
        for task_id in sorted({task["task_id"] for task in tasks if task["map_index"] >= 0}):
            states = Counter(task["state"] or "waiting" for task in tasks if task["task_id"] == task_id)
            said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            if set(states) <= ENDED and self._is_news((dag_id, run_id, task_id), said):
                changed = True
                self.progress(f"  {dag_id} {task_id}: {said}")
        return changed

    def _is_news(self, key: tuple[str, str, str], state: str) -> bool:
        news = self._seen.get(key) != state
        self._seen[key] = state
        return news

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run, in the order in which they started."""
        found: list[dict[str, Any]] = []
        while True:
            params = {"limit": 100, "offset": len(found), "order_by": "start_date"}
            page = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params=params)
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def reason(self, dag_id: str, run_id: str) -> str:
        """The failed tasks of a run, each with the last error line of its log."""
        said = []
        for task in self.tasks(dag_id, run_id):
            if task["state"] == "failed":
                said.append(f"{task['task_id']}: {self.error_of(dag_id, run_id, task)}")
        return "; ".join(said) or "no task failed by itself"

    def error_of(self, dag_id: str, run_id: str, task: dict[str, Any]) -> str:
        """The last error that a task logged."""
        for line in reversed(self.log(dag_id, run_id, task)):
            if line.get("level") == "error":
                detail = line.get("error_detail") or [{}]
                return str(detail[0].get("exc_value") or line.get("event"))
        return "no error in its log"

    def log(self, dag_id: str, run_id: str, task: dict[str, Any]) -> list[dict[str, Any]]:
        """The lines that the last try of a task logged."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        log = self.call("GET", path, params={"map_index": task["map_index"], "full_content": True})
        lines = log["content"] if isinstance(log["content"], list) else []
        return [line for line in lines if isinstance(line, dict)]


def _queued_since(run: Run, moment: datetime) -> bool:
    queued = run["queued_at"] and datetime.fromisoformat(run["queued_at"])
    return queued is not None and queued >= moment - timedelta(seconds=1)
