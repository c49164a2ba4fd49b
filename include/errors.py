"""The errors that reach a user, each with the exit code of the command line that it stands for."""


class TidemarkError(Exception):
    """Something a user can act on: its message is one line that says what is wrong and what to do."""

    exit_code = 2


class BadInput(TidemarkError):
    """An unusable file, row, option or setting. Nothing was changed."""


class GateFailed(TidemarkError):
    """A quality gate did not pass. Nothing was published."""

    exit_code = 1
