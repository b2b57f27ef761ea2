"""The error for what a user can mend, and which errors say that another process is gone."""

import sys


class UserError(Exception):
    """Bad input or settings. The message says what is wrong, what was expected and what to do."""


class MissingPackageError(UserError):
    """A package that is not installed, as only an extra of psl_jax needs it."""

    def __init__(self, purpose: object, package: str, extra: str):
        super().__init__(
            f"{purpose} needs {package}, which is not installed. In the clone of psl_jax: "
            f"pip install -e '.[{extra}]'"
        )


class UnreachableError(UserError):
    """A bucket that could be reached before: the same command goes on later (status 75)."""


class DamagedFileError(UserError, ValueError):
    """A file that does not hold what a file of its kind does. The message names it."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return f"{(str(error).strip() or type(error).__name__).splitlines()[0]:.200}"


# In the words of Gloo, NCCL and gRPC, and of JAX's coordinator, whose barriers Orbax waits at.
_WORDS = (
    *("closed by peer", "reset by peer", "remote process exited", "Socket closed"),
    *("stopped sending heartbeats", "heartbeat timeout"),
    *("RPC to coordination service", "coordination service agent", "waiting at barrier"),
)


def is_loss_of_others(error: BaseException) -> bool:
    """Whether a collective or a barrier failed as a process is gone; False where there is one."""
    return has_joined_others() and any(word in str(error) for word in _WORDS)


def has_joined_others() -> bool:
    """Whether this is one of several processes."""
    jax = sys.modules.get("jax")  # not every entry point needs it
    return jax is not None and jax.distributed.is_initialized()
