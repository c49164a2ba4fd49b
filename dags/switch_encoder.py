"""# Switch the encoder.

## What
Embeds everything with another encoder beside what serves, publishes it as a shadow that does not serve, compares the two,
and asks whether to switch (**Required Actions** → `approve`). On **Approve** it is brought up to the newest gated snapshot and
serves, in one atomic step; from then on every run embeds with it. On **Reject**, or when the hours to decide are over, nothing
changes.

## Inputs → outputs
What serves (its T, snapshot and artefacts) and the encoder of the params → tables of the other encoder, a shadow publication,
its page in `reports/publications/`; after an approval the asset `publication`.

## If it fails
What serves goes on serving. `plan_challenger` is red: its log says what cannot be used. A red `check_…`: runbook
`failed_gate`. A red task from `embed_texts` to `publish`: runbook `failed_update`. `serve_challenger` is red: nothing was
switched; clear it, and it goes on. Else runbook `switch_encoder`.

## Safe to re-run?
Yes. Texts that were embedded are not embedded again. Cleared from `plan_challenger`, it makes a new shadow.

## Backfill
None: it challenges what serves now. Back to the encoder before: `roll_back_publication`, which takes its encoder along.
"""

from typing import Any

from airflow.sdk import Param, dag, task

from include.dag_challengers import HOURS_TO_DECIDE, challenge, hours_to_decide
from include.dag_defaults import DEFAULT_ARGS, START, WRITER_POOL, Tag, run_step, work_of

ENCODER = ("source", "pooling", "item_prefix", "user_prefix", "max_tokens")


def optional(kind: str, what: str, **schema: Any) -> Param:
    return Param(None, type=["null", kind], description=f"{what}; empty stands for the default", **schema)


@dag(
    schedule=None,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "source": Param(
            "", type="string", description="the encoder, as TIDEMARK_ENCODER__SOURCE takes it (docs/encoders.md)"
        ),
        "pooling": optional("string", "mean, cls or last", enum=[None, "mean", "cls", "last"]),
        "item_prefix": optional("string", "put before every item text"),
        "user_prefix": optional("string", "put before every user text"),
        "max_tokens": optional("integer", "longer texts are cut here", minimum=8, maximum=8192),
        "reason": Param("", type="string", description="why, for the record"),
        HOURS_TO_DECIDE: hours_to_decide(),
    },
    tags=[Tag.TIDEMARK, Tag.RECOMMENDING, Tag.BY_HAND],
    doc_md=__doc__,
)
def switch_encoder() -> None:
    @task(pool=WRITER_POOL)
    def plan_challenger(params: dict[str, Any]) -> list[dict[str, Any]]:
        """Fix what is challenged, and which texts the other encoder embeds."""
        from include.steps.challenge import encoder_settings
        from include.steps.plan import plan_challenger

        def plan_with_encoder(settings: Any) -> dict[str, Any]:
            encoder = encoder_settings(**{name: params[name] for name in ENCODER})
            return plan_challenger(settings, encoder, params["reason"])

        return work_of(run_step(plan_with_encoder))

    challenge(plan_challenger())


switch_encoder()
