"""What is set up once in each process, and how several processes work as one.

Entry points make the process-wide settings of JAX, and join the processes, before the first
computation. `Boundaries` tells the loops of all processes to stop (SIGTERM) or save at one step.
"""

import hashlib
import itertools
import json
import os
import pathlib
import socket
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
from absl import logging
from jax._src import distributed as jax_distributed  # its client is nowhere public
from jax.experimental import multihost_utils

from psl_jax.runtime import interrupts, peers
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.peers import Peers

# A process that has not been heard of for so long is dead, and JAX ends the others.
_HEARTBEAT_SECONDS = 40

_JOIN_SECONDS = 300  # until all have come

_GREETING_SECONDS = 10.0
_HTTP2_SETTINGS = b"\4"  # the type of the frame with which a gRPC server begins
_PACKAGE = pathlib.Path(__file__).parents[1]

LONGEST_WAIT_MS = 7 * 24 * 3600 * 1000

_peers: list[Peers] = []
_exchanges = itertools.count()


def configure(keep_compiled_from: float = 2.0) -> None:
    """Quietens what users cannot act on, and keeps compiled programs for the next start.

    keep_compiled_from: seconds that a program took to compile. JAX's own variables,
        JAX_COMPILATION_CACHE_DIR and JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS, come first.
    """
    logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*donated buffers were not usable.*")
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if os.path.isabs(home):  # a container's user may have no home: nothing is kept then
            jax.config.update("jax_compilation_cache_dir", os.path.join(home, "psl_jax", "xla"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", keep_compiled_from)


def join_processes(
    is_asked: bool,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Joins the other processes of a run where --distributed asks for it; waits for all of them.

    On a TPU pod and in a Slurm or MPI job JAX finds out the arguments by itself. settings: what has
    to be the same in all processes, besides their code and devices. Raises UserError where
    arguments are missing, the others do not come or differ from this one.
    """
    options = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    given = [name for name, value in options.items() if value is not None]
    if len(given) not in ((0, len(options)) if is_asked else (0,)):
        raise UserError(
            f"got {', '.join(given)}: expected --distributed with {', '.join(options)}, or with "
            "none of these; without --distributed each process runs alone"
        )
    if not is_asked:
        return
    if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
        raise UserError(
            f"--process_id={process_id}, expected 0 to one less than "
            f"--num_processes={num_processes}"
        )
    # Signals are answered in `interrupts`, also where there is one process only.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        # JAX gives up by SIGABRT.
        print(
            f"waiting for all processes of the run, for at most {_JOIN_SECONDS} s",
            file=sys.stderr,
            flush=True,
        )
        if coordinator_address is not None:
            _check_coordinator(coordinator_address, is_first=process_id == 0)
        with interrupts.end_at_once():
            jax.distributed.initialize(
                coordinator_address,
                num_processes,
                process_id,
                initialization_timeout=_JOIN_SECONDS,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            )
        joined = jax_distributed.global_state
        _peers.append(Peers(joined.client, joined.process_id, joined.num_processes))
        _check_alike(settings or {})
        # Collectives wait for slow processes, but only once all have met in a first one.
        multihost_utils.sync_global_devices("join")
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot join the other processes: {error}\nOutside of TPU pods and of Slurm and MPI "
            f"jobs give each process {', '.join(options)} (launch/local_processes.sh does)."
        ) from error


def _check_coordinator(address: str, is_first: bool) -> None:
    """Raises UserError where process 0 cannot listen at `address`, or somebody else does there."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator_address={address}: expected HOST:PORT of process 0")
    other_port = "Give all processes a --coordinator_address with another port"
    if is_first:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen on port {port}: {error.strerror}. {other_port}"
            ) from error
        return
    end, greeting = time.monotonic() + _JOIN_SECONDS, None
    while greeting is None:
        try:
            with socket.create_connection((host, int(port)), timeout=_GREETING_SECONDS) as server:
                greeting = server.recv(9)
        except TimeoutError:
            greeting = b""
        except OSError as error:  # process 0 is not there yet
            if time.monotonic() > end:
                raise UserError(f"there is no process 0 at {address}: {error}") from error
            time.sleep(0.5)
    if greeting[3:4] != _HTTP2_SETTINGS:
        raise UserError(
            f"port {port} is in use: what listens at {address} is not process 0 of a run. "
            f"{other_port}"
        )


def exchange(value: Any) -> list[Any]:
    """What each process has, by number; all come here in the same order. value: as JSON."""
    if not _peers:
        return [value]
    client: Any = jax_distributed.global_state.client
    key = f"psl_jax/exchanges/{next(_exchanges)}"
    client.key_value_set(f"{key}/{jax.process_index()}", json.dumps(value, default=str))
    return [
        json.loads(client.blocking_key_value_get(f"{key}/{number}", LONGEST_WAIT_MS))
        for number in range(jax.process_count())
    ]


def _check_alike(settings: Mapping[str, Any]) -> None:
    """Raises UserError in all processes where settings, code or devices differ."""
    devices = jax.local_devices()
    code = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        code.update(path.read_bytes())
    own_values = dict(settings) | {
        "the code of psl_jax": code.hexdigest()[:12],
        "the version of JAX": jax.__version__,
        "the devices": f"{len(devices)} of {devices[0].device_kind}",
    }
    everyone = exchange(own_values)
    differing = [
        f"  {name}: {everyone[0].get(name)} in process 0, {other.get(name)} in process {number}"
        for number, other in enumerate(everyone)
        for name in {**everyone[0], **other}
        if everyone[0].get(name) != other.get(name)
    ]
    if differing:
        leave()
        raise UserError(
            "\n".join(["the processes of this run differ:", *differing[:10]])
            + "\nGive all of them the same command, on equal machines"
        )


def leave() -> None:
    """Leaves the other processes, when all of them do: waits for them."""
    while _peers:
        _peers.pop().close()
    jax.distributed.shutdown()


class Asked(NamedTuple):
    """What is to be done at a boundary; all processes are told the same."""

    stop: bool = False
    save: bool = False


class Boundaries:
    """Tells a loop when to stop (SIGTERM) and when it is time to save; within `with`.

    All processes go through the same boundaries, in the same order, and are told the same there,
    whichever of them got the signal. It is process 0's clock that counts.
    """

    _loops = 0

    def __init__(self, start: int = 0, save_minutes: float = 0.0):
        """start: steps made before; save_minutes: between two saves, 0: never."""
        self._start = start
        self._seconds = 60 * save_minutes
        self._peers = _peers[0] if _peers else None

    def __enter__(self) -> Self:
        Boundaries._loops += 1
        self._loop = Boundaries._loops
        self.note_saved()
        if self._peers is None:
            interrupts.set_answer(lambda: None)  # asked for at each boundary
        else:
            self._peers.pass_boundary(self._loop, self._start)
        return self

    def passed(self, step: int) -> Asked:
        """Called after each step, or each few of them."""
        due = 0 < self._seconds <= time.monotonic() - self._since
        if self._peers is None:
            return Asked(interrupts.is_ending(), due)
        if due and self._peers.is_first:
            self._peers.ask(peers.SAVE)
            self.note_saved()  # not asked for again before its time
        now = self._peers.pass_boundary(self._loop, step)
        return Asked(peers.STOP in now, peers.SAVE in now)

    def note_saved(self) -> None:
        """Starts the clock again."""
        self._since = time.monotonic()

    def __exit__(self, *error: object) -> None:
        """Raises Preempted where the loop came to its end before it could be stopped."""
        if self._peers is None:
            interrupts.set_answer(None)
            stops = interrupts.is_ending()
        else:
            stops = self._peers.leave_loop()
        if stops and error[0] is None:
            raise interrupts.Preempted(interrupts.KEPT)
