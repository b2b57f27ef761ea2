"""The error for what a user can mend."""


class UserError(Exception):
    """Bad input or settings. The message says what is wrong, what was expected and what to do.

    Entry points print it without a traceback and exit with status 2.
    """


class MissingPackageError(UserError):
    """A package that is not installed, as only an extra of psl_jax needs it."""

    def __init__(self, purpose: object, package: str, extra: str):
        super().__init__(
            f"{purpose} needs {package}, which is not installed. In the clone of psl_jax: "
            f"pip install -e '.[{extra}]'"
        )


class UnreachableError(UserError):
    """A bucket that could not be reached, though it could before: the same command goes on later.

    Entry points exit with the status on which launchers start again.
    """


class DamagedFileError(UserError, ValueError):
    """A file that does not hold what a file of its kind does. The message names it."""
