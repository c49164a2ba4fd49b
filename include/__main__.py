"""The command line: the same steps as the DAGs run, on the same home, under the same lock.

Exit code 0: done. 1: a quality gate failed and nothing was published. 2: bad input or usage. 70: a fault, with its traceback.
"""

import logging
import os
import sys

import typer

from include.commands import backtest, behaviour, encoders, operations, publications, publishing
from include.commands.output import lines
from include.errors import BadInput, GateFailed, TidemarkError
from include.readable import readable

app = typer.Typer(
    help="Tidemark keeps every user's interests current. Start with `land` and `run`; `doctor` says what to do next.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (behaviour, publishing, publications, backtest, encoders, operations):
    app.add_typer(part.app)


class _OneLine(logging.Formatter):
    """A record is one line, whatever names and values are in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = readable(record.message)
        return super().formatMessage(record)


def main() -> None:
    """Run the command line and turn errors that a user can act on into one line and an exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    try:
        app()
    except TidemarkError as error:
        kind = "gate failed" if isinstance(error, GateFailed) else "error"
        # A gate has a line for each expectation; everything else is one.
        message = lines(str(error)) if isinstance(error, GateFailed) else readable(str(error))
        typer.echo(f"{kind}: {message}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        what = error if error.filename is None else f"{error.filename}: {error.strerror}"
        typer.echo(f"error: {readable(str(what))}", err=True)
        sys.exit(BadInput.exit_code)
    except Exception:
        logging.getLogger(__name__).exception(
            "this is a fault of Tidemark, or of a file that it wrote and something changed since"
        )
        sys.exit(os.EX_SOFTWARE)


if __name__ == "__main__":
    main()
