"""Errors that are the user's to fix: shown as one message, without a traceback, exit code 2."""


class UserError(Exception):
    """Something outside the code is wrong; the message names it, what was expected, and what to do."""


class RecipeError(UserError):
    """A recipe (or a command-line override) is wrong: names file and dotted key."""


class DataError(UserError):
    """A data file or row is wrong: names file, row and field."""


RESUMABLE = 75
"""Exit code of a run that was stopped and can continue: EX_TEMPFAIL of sysexits.h, "try again later"."""


class Interrupted(Exception):
    """The run has stopped because a signal asked for it, after a checkpoint; the exit code is RESUMABLE."""
