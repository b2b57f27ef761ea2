"""The error for what a user can mend."""


class UserError(Exception):
    """Bad input or settings. The message says what is wrong, what was expected and what to do.

    Entry points print it without a traceback and exit with status 2.
    """


class UnreachableError(UserError):
    """A bucket that could not be reached, though it could before: the same command goes on later.

    Entry points exit with the status on which launchers start again.
    """


class DamagedFileError(UserError, ValueError):
    """A file that does not hold what a file of its kind does. The message names it."""
