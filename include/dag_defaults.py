"""What the DAG files share: owner, retries, tags, pools, runbooks, and the chain of tasks that makes a publication.

Airflow parses DAG files every few seconds, so nothing heavy is imported here: steps are imported inside tasks.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from airflow.sdk import chain, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include.assets import PUBLICATION
from include.durations import moment
from include.errors import BadInput, GateFailed
from include.readable import readable

log = logging.getLogger("tidemark")

OWNER = "tidemark"
WRITER_POOL = "tidemark_writer"  # one slot: who writes the lake or the vectors waits here for the writer before it
CANDIDATE = "candidate"
SHARD_NAME = "{{ shard_name }}"  # see run_shard
CLEANING_FIRST = 100  # priority in that pool: during a backfill the updates of several hours become one
SWITCHING_FIRST = 200  # and somebody waits for a rollback or a switch
DBT_FAILED = ("error", "fail", "runtime error")
START = datetime(1990, 1, 1, tzinfo=UTC)  # histories start long ago, and any of their hours may be backfilled


class Tag(StrEnum):
    """Every tag that a DAG may carry."""

    TIDEMARK = "tidemark"
    CLEANING = "cleaning"
    RECOMMENDING = "recommending"
    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MAINTENANCE = "maintenance"
    ON_ASSET = "on-asset"
    BY_HAND = "by-hand"


DEFAULT_ARGS: dict[str, Any] = {
    "owner": OWNER,
    "retries": 2,  # a task sent before the API server is up fails once
    "retry_delay": timedelta(seconds=15),
    "execution_timeout": timedelta(hours=2),
    "weight_rule": "upstream",  # who is further along goes first, so that runs end before others start
}

RUNBOOKS = {
    "clean_batches": "red_dbt_model",
    "list_models": "red_dbt_model",
    "show_model": "red_dbt_model",
    "check_lake_gate": "failed_gate",
    "check_vectors": "failed_gate",
    "check_lists": "failed_gate",
    "score_served_lists": "served_lists",
    "check_served_lists": "served_lists",
    "maintain_stores": "disk_full",
    "check_batches": "stale_batch",
    "choose": "fix_the_data",
    "roll_back": "fix_the_data",
    "compare": "fix_the_data",
    "plan_challenger": "switch_encoder",
    "compare_challenger": "switch_encoder",
    "approve": "switch_encoder",
    "serve_challenger": "switch_encoder",
    "reject_challenger": "switch_encoder",
    "plan_backtest": "backtest_recommender",
    "embed_history": "backtest_recommender",
    "backtest_cut": "backtest_recommender",
    "report_backtest": "backtest_recommender",
    "plan_training": "train_encoder_weekly",
    "prepare_pairs": "train_encoder_weekly",
    "train_encoder": "train_encoder_weekly",
    "plan_trained_backtest": "train_encoder_weekly",
    "decide": "train_encoder_weekly",
    "plan_trained_challenger": "train_encoder_weekly",
    "plan_comparison": "backtest_recommender",
    "measure_encoder": "backtest_recommender",
    "report_comparison": "backtest_recommender",
}


def runbook(task_id: str) -> str:
    """Name of the runbook for a task of ours (a file stem of docs/runbooks); `failed_update` where none is its own."""
    return RUNBOOKS.get(task_id.rsplit(".", 1)[-1], "failed_update")


@contextmanager
def final_errors() -> Iterator[None]:
    """Fail the task at once where another try would only meet the same bad input or the same failed gate."""
    try:
        yield
    except (BadInput, GateFailed) as error:
        raise AirflowFailException(str(error)) from error


def span(start: str | None, end: str | None) -> tuple[datetime, datetime] | None:
    """The span of the params `from` and `to`, or None where neither is given.

    Raises:
        BadInput: only one is given, or one is no time.
    """
    if not start and not end:
        return None
    if not start or not end:
        raise BadInput("give both params, from and to, or neither")
    return moment(start, "param from"), moment(end, "param to")


def log_summary(step: str, summary: dict[str, Any]) -> dict[str, Any]:
    """Write a step's summary into the task's log, one line a value, and return it."""
    log.info("%s:", step)
    for line in _lines(summary, ""):
        log.info("  %s", readable(line))
    return summary


def _lines(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _lines(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and len(value) > 10:
        yield f"{path} = {len(value):,} entries, the first {str(value[0])[:200]}"
    else:
        yield f"{path} = {value:,}" if type(value) is int else f"{path} = {value}"


def run_step(step: Callable[..., dict[str, Any]], *args: Any, **options: Any) -> dict[str, Any]:
    """Open the home, run a step with the settings in front of its arguments, log its summary and return it.

    Raises:
        AirflowFailException: bad input or a failed gate, which no further try would mend.
    """
    from include.settings import load
    from include.steps.migrate import opened

    with final_errors():
        return log_summary(step.__name__, step(opened(load()), *args, **options))


def is_retry(ti: Any) -> bool:
    """Whether a task instance runs again after a failed try, and not because somebody cleared it or backfilled it."""
    return bool(ti.max_tries - ti.try_number + 1 < ti.task.retries)


def nodes_to_show(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a dbt build: every model, and whatever else failed.

    Raises:
        AirflowSkipException: dbt ran nothing.
    """
    shown = [node for node in nodes if node["resource_type"] == "model" or node["status"] in DBT_FAILED]
    if not shown:
        raise AirflowSkipException("dbt ran nothing")
    return shown


def end_like(node: dict[str, Any]) -> None:
    """End the task as dbt ended the node, with what dbt said of it.

    Raises:
        AirflowFailException: the node failed.
        AirflowSkipException: the node was skipped, because one before it failed.
    """
    said = readable(f"{node['resource_type']} {node['name']}: {node['status']} {node['message'] or ''}".strip())
    if node["status"] in DBT_FAILED:
        raise AirflowFailException(said)
    if node["status"] == "skipped":
        raise AirflowSkipException(said)
    log.info(said)


def run_shard(step: Callable[..., dict[str, Any]], candidate: str, shard: int) -> dict[str, Any]:
    """Run one shard of a step of a candidate, and name it in the grid."""
    get_current_context()["shard_name"] = f"shard {shard + 1}"
    return run_step(step, candidate, shard)


def work_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """What a plan's task hands on: `candidate` and `shard` of each shard, and the candidate alone under a key of its own.

    Raises:
        AirflowSkipException: there is nothing to do, and the plan says why.
    """
    if plan["candidate"] is None:
        raise AirflowSkipException(plan.get("reason", "nothing to do"))
    # Airflow maps tasks over what a task returns, and over no other key.
    get_current_context()["ti"].xcom_push(CANDIDATE, plan["candidate"])
    return [{CANDIDATE: plan["candidate"], "shard": shard} for shard in plan["shards"]]


@task_group(prefix_group_id=False, tooltip="From a planned candidate to a publication")
def make_publication(work: Any, *, announce: bool = True) -> Any:
    """The tasks that turn a planned candidate into a publication; shared by the DAGs that publish.

    A shard writes files that only its candidate reads, so it waits for no writer; the task behind it joins them.

    Args:
        work: the task upstream that returns what `work_of` made of a plan.
        announce: whether the asset `publication` gets an event; a shadow is nobody's business before it is approved.

    Returns:
        What `publish` says of the publication, for tasks behind it.
    """

    @task(map_index_template=SHARD_NAME, doc_md="Embed the texts that no run embedded before, those of one shard.")
    def embed_texts(candidate: str, shard: int) -> dict[str, Any]:
        from include.steps.embed_texts import embed_texts

        return run_shard(embed_texts, candidate, shard)

    @task(pool=WRITER_POOL)
    def train_artefacts(candidate: str) -> dict[str, Any]:
        """Keep what was embedded, and train what the plan found missing: the text vectors' mean, the item factors, and how lists are made."""
        from include.steps.train_artefacts import train_artefacts

        return run_step(train_artefacts, candidate)

    @task(pool=WRITER_POOL)
    def update_items(candidate: str) -> dict[str, Any]:
        """Write the vectors of the items whose input changed."""
        from include.steps.update_items import update_items

        return run_step(update_items, candidate)

    @task(
        map_index_template=SHARD_NAME,
        doc_md="Compute the vectors of the users whose input changed, those of one shard.",
    )
    def update_users(candidate: str, shard: int) -> dict[str, Any]:
        from include.steps.update_users import update_users

        return run_shard(update_users, candidate, shard)

    @task(pool=WRITER_POOL)
    def keep_users(candidate: str) -> dict[str, Any]:
        """Check that every shard's users are there, and write their vectors."""
        from include.steps.keep_users import keep_users

        return run_step(keep_users, candidate)

    @task(pool=WRITER_POOL)
    def check_vectors(candidate: str) -> dict[str, Any]:
        """Gate: dimensions, norms, keys, one encoder, coverage."""
        from include.steps.check_vectors import check_vectors

        return run_step(check_vectors, candidate)

    @task(map_index_template=SHARD_NAME, doc_md="Score the users who are listed anew, those of one shard.")
    def update_lists(candidate: str, shard: int) -> dict[str, Any]:
        from include.steps.update_lists import update_lists

        return run_shard(update_lists, candidate, shard)

    @task(pool=WRITER_POOL)
    def keep_lists(candidate: str) -> dict[str, Any]:
        """Check that every shard's lists are there, and write them."""
        from include.steps.keep_lists import keep_lists

        return run_step(keep_lists, candidate)

    @task(pool=WRITER_POOL)
    def check_lists(candidate: str) -> dict[str, Any]:
        """Gate: full lists, no duplicates, only items that exist and are available, nothing seen, coverage."""
        from include.steps.check_lists import check_lists

        return run_step(check_lists, candidate)

    outlets = [PUBLICATION] if announce else []

    @task(pool=WRITER_POOL, outlets=outlets)
    def publish(candidate: str, outlet_events: Any = None) -> dict[str, Any]:
        """Write the manifest, switch to it in one atomic step if it is to serve, and say so on the asset where it has one."""
        from include.steps.publish_on_newest import publish_on_newest

        summary = run_step(publish_on_newest, candidate)
        for asset in outlets:
            outlet_events[asset].extra = summary
        return summary

    candidate = work[CANDIDATE]
    published = publish(candidate)
    chain(
        embed_texts.expand_kwargs(work),
        train_artefacts(candidate),
        update_items(candidate),
        update_users.expand_kwargs(work),
        keep_users(candidate),
        check_vectors(candidate),
        update_lists.expand_kwargs(work),
        keep_lists(candidate),
        check_lists(candidate),
        published,
    )
    return published
