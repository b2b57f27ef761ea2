"""Whether an error says that another process of the run is gone. JAX is not imported."""

import sys

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
