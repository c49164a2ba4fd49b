"""Commands that make publications: update, rebuild, recommend, run."""

import logging
from typing import Annotated, Any

import typer

from include.commands.behaviour import clean_and_gate
from include.commands.options import Serve, home, moment
from include.commands.output import printed
from include.settings import Settings

app = typer.Typer()


def take_to_publication(settings: Settings, plan: dict[str, Any], serve: bool | None) -> dict[str, Any]:
    """Take a plan through every step to a publication."""
    from include.steps.chain import STEPS
    from include.steps.publish_on_newest import publish_on_newest

    log = logging.getLogger("include")
    log.info("%s", plan["reason"])
    candidate = plan["candidate"]
    if candidate is None:
        return {"publication": plan["publication"], "run": {"texts": {"embedded": 0}}, "reason": plan["reason"]}
    for number, step in enumerate(STEPS, start=1):
        log.info("step %d of %d: %s", number, len(STEPS) + 1, step.__name__)
        step(settings, candidate)
    log.info("step %d of %d: publish", len(STEPS) + 1, len(STEPS) + 1)
    return publish_on_newest(settings, candidate, serve=serve)


@app.command()
def update(
    until: Annotated[
        str | None, typer.Option(metavar="T", help="As of when; by default the end of the last gated arrival hour.")
    ] = None,
) -> None:
    """Follow what changed: recompute the touched users and items, relist the touched users, publish.

    Where a surface's `trends` are hourly, everyone is listed anew.
    """
    from include.steps.plan import plan_update

    settings = home()
    printed(take_to_publication(settings, plan_update(settings, moment(until, "--until")), None))


@app.command()
def rebuild(
    as_of: Annotated[str | None, typer.Option(metavar="T", help="As of when.")] = None,
    publication: Annotated[
        str | None, typer.Option(metavar="P", help="Take snapshot and artefacts from this publication.")
    ] = None,
    serve: Serve = False,
) -> None:
    """Compute every vector and list from nothing, and publish."""
    from include.steps.plan import plan_rebuild

    settings = home()
    printed(
        take_to_publication(
            settings, plan_rebuild(settings, moment(as_of, "--as-of"), publication), True if serve else None
        )
    )


@app.command()
def recommend(
    as_of: Annotated[str | None, typer.Option(metavar="T", help="As of when; may exceed the data.")] = None,
    serve: Serve = False,
) -> None:
    """List everyone anew, with popularity and catalogue as of T, and publish."""
    from include.steps.plan import plan_recommend

    settings = home()
    printed(
        take_to_publication(
            settings, plan_recommend(settings, moment(as_of, "--as-of"), beyond_data=True), True if serve else None
        )
    )


@app.command()
def run(
    as_of: Annotated[str | None, typer.Option(metavar="T", help="As of when; may exceed the data.")] = None,
    serve: Serve = False,
) -> None:
    """All of it: clean, gate, embed, update, recommend, gate, publish. Prints the publication."""
    clean_and_gate(home())
    recommend(as_of, serve)
