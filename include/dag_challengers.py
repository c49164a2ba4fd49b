"""The tasks that DAGs of challengers share: from a planned challenger to its shadow, its approval, and serving.

Apart from `dag_defaults`, so that no other DAG pays for the import of Airflow's human-in-the-loop operators.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, chain, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from include.assets import PUBLICATION
from include.dag_defaults import SWITCHING_FIRST, WRITER_POOL, make_publication, run_step

HOURS_TO_DECIDE = "hours_to_decide"
"""The param of a DAG of challengers that says after how many hours without an answer the challenger is rejected."""
DECISION = "decision"  # XCom key


def hours_to_decide() -> Param:
    """That param."""
    return Param(72, type="number", minimum=0.01, maximum=24 * 90, description="hours to decide; then it is rejected")


NOBODY = "nobody, the time to decide is over"


class Decision(ApprovalOperator):  # type: ignore[misc] # Airflow is not followed by mypy
    """An approval that waits as long as the run's param says. Waiting takes neither a worker nor a slot of the pool."""

    def execute(self, context: Any) -> Any:
        """Ask, and wait."""
        self.response_timeout = timedelta(hours=context["params"][HOURS_TO_DECIDE])
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Hand the decision on: of a rejection Airflow itself keeps no result."""
        if "error" not in event:
            user = event["responded_by_user"]
            decision = {
                "approved": event["chosen_options"] == [self.APPROVE],
                "by": NOBODY if user is None else user["name"],
                "comment": (event["params_input"] or {}).get("comment") or "",
            }
            context["ti"].xcom_push(DECISION, decision)
        return super().execute_complete(context, event)


@task_group(prefix_group_id=False, tooltip="Shadow, comparison, approval, switch")
def challenge(work: Any) -> None:
    """The tasks that take a planned challenger to serving, if somebody approves it.

    Args:
        work: what `work_of` made of a challenger's plan, from a task upstream.
    """

    @task
    def compare_challenger(published: dict[str, Any]) -> dict[str, Any]:
        """Compare the shadow with what it challenges: a page, and what is shown to whoever decides."""
        from include.steps.challenge import as_markdown, compare_challenger

        found = run_step(compare_challenger, published["publication"])
        return {"publication": found["challenger"], "body": as_markdown(found)}

    @task(pool=WRITER_POOL, priority_weight=SWITCHING_FIRST, outlets=[PUBLICATION])
    def serve_challenger(
        compared: dict[str, Any], decision: dict[str, Any], outlet_events: Any = None
    ) -> dict[str, Any]:
        """Bring the challenger up to the newest gated snapshot, and switch to it in one atomic step."""
        from include.steps.challenge import approve

        summary = run_step(approve, compared["publication"], decision["by"], decision["comment"])
        outlet_events[PUBLICATION].extra = summary
        return summary

    # Not `all_skipped`: behind a failure that would end as skipped, and the run as a success.
    @task(pool=WRITER_POOL, trigger_rule="none_failed")
    def reject_challenger(ti: Any = None) -> dict[str, Any]:
        """Record that it was rejected; what serves is left as it is."""
        from include.steps.challenge import decision as decided
        from include.steps.challenge import reject

        decision = ti.xcom_pull("approve", key=DECISION)
        if decision is None:
            raise AirflowSkipException("there is no challenger to decide about")
        if decision["approved"]:
            raise AirflowSkipException("it was approved")
        compared = ti.xcom_pull("compare_challenger")
        if decision["by"] == NOBODY and run_step(decided, compared["publication"])["approved"]:
            raise AirflowSkipException("it was approved by the command line meanwhile")
        return run_step(reject, compared["publication"], decision["by"], decision["comment"])

    compared = compare_challenger(make_publication(work, announce=False))
    approval = Decision(
        task_id="approve",
        subject="Shall {{ ti.xcom_pull('compare_challenger')['publication'] }} serve?",
        body="{{ ti.xcom_pull('compare_challenger')['body'] }}",
        params={"comment": Param("", type="string", description="why; recorded with the decision")},
        defaults=Decision.REJECT,
        response_timeout=timedelta(hours=1),  # the run's param takes its place
        doc_md="Ask whether the challenger shall serve. Approve or reject it under Required Actions.",
    )
    compared >> approval
    # A rejection skips what follows directly; the record is kept by the task behind that.
    chain(serve_challenger(compared, approval.output[DECISION]), reject_challenger())
