"""Process-wide settings of JAX, made once by the entry points before the first computation."""

import contextlib
import os
import pathlib
import sys
import threading
import warnings
from collections.abc import Iterator

import jax
from absl import logging
from jax._src import distributed  # its client is nowhere public
from jax.experimental import multihost_utils

from psl_jax.runtime.errors import UserError
from psl_jax.runtime.peers import Peers

# A process that has not been heard of for so long is dead, and JAX ends the others.
_HEARTBEAT_SECONDS = 40

# Until all have come: so long they are waited for, and when that is told.
_JOIN_SECONDS = 300
_TOLD_AFTER = 30.0

_peers: list[Peers] = []


def configure(keep_compiled_from: float = 2.0) -> None:
    """Quietens what users cannot act on, and keeps compiled programs for the next start.

    keep_compiled_from: seconds that a program took to compile. JAX's own variables,
        JAX_COMPILATION_CACHE_DIR and JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS, come first.
    """
    logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*donated buffers were not usable.*")
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
        jax.config.update(
            "jax_compilation_cache_dir", os.fspath(pathlib.Path(home) / "psl_jax" / "xla")
        )
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", keep_compiled_from)


def join_processes(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes of a run; waits until all are there.

    On a TPU pod and in a Slurm or MPI job JAX finds out the arguments by itself.

    Args:
      coordinator_address: HOST:PORT of process 0, which listens there.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises UserError where they are neither given nor to be found out, or the others do not come.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise UserError(f"{' and '.join(missing)} missing: give all of {', '.join(given)}, or none")
    # SIGTERM is answered in `interrupts`, also where there is one process only.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with _told_while_waiting(coordinator_address, num_processes):
            jax.distributed.initialize(
                coordinator_address,
                num_processes,
                process_id,
                initialization_timeout=_JOIN_SECONDS,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            )
            # Collectives wait for slow processes, but only once all have met in a first one.
            multihost_utils.sync_global_devices("join")
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot join the other processes: {error}\nOutside of TPU pods and of Slurm and MPI "
            f"jobs give each process {', '.join(given)} (launch/local_processes.sh does)."
        ) from error
    client, count = distributed.global_state.client, jax.process_count()
    _peers.append(Peers(client, jax.process_index(), count))


@contextlib.contextmanager
def _told_while_waiting(address: str | None, count: int | None) -> Iterator[None]:
    """Says on standard error that others are waited for; JAX gives up by SIGABRT."""
    who = "all processes of the run" if count is None else f"all {count} processes"
    where = "" if address is None else f" at {address}"

    def tell() -> None:
        print(
            f"waiting for {who} to come{where}: {_TOLD_AFTER:.0f} s so far, and at most "
            f"{_JOIN_SECONDS} s. Whoever has not come by then is told by JAX, and the run ends",
            file=sys.stderr,
            flush=True,
        )

    timer = threading.Timer(_TOLD_AFTER, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def peers() -> Peers | None:
    """The other processes; None where none were joined."""
    return _peers[0] if _peers else None


def leave() -> None:
    """Leaves the other processes, when all of them do: waits for them."""
    for one in _peers:
        one.close()
    jax.distributed.shutdown()
