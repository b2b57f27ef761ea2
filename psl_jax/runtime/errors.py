"""The error for what a user can mend."""


class UserError(Exception):
    """Bad input or settings. The message says what is wrong, what was expected and what to do.

    Entry points print it without a traceback and exit with status 2.
    """


class DamagedFileError(UserError, ValueError):
    """A file that does not hold what a file of its kind does. The message names it."""
