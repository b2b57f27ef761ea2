"""What several processes agree on while they work: when to stop, when to save, and who is left.

A thread of each process asks their coordinator once a second, so nothing waits for a step. Who
wants something asks for it (`Peers.ask`); process 0 then calls a round, in which each process says
which step of which loop it has passed. What was asked for is done at the first boundary that none
of them had passed. An agreement is never replaced, as one process may have acted on it already;
after STOP no round is called.
"""

import atexit
import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from psl_jax.runtime import errors, interrupts

STOP, SAVE = "stop", "save"

_ROOT = "psl_jax"
_BETWEEN = 1.0  # seconds
_BETWEEN_SIGNS = 5.0
_SILENCE = 20.0  # before it is told; JAX ends the run somewhat later
_LONGEST_ROUND_MS = 60_000
_Place = tuple[int, int] | None  # (number of the loop, last step passed); None: in no loop


class Peers:
    """The other processes of a run, from joining them to `close`."""

    def __init__(self, client: Any, process: int, count: int):
        """client: JAX's, of the coordinator; process: this one's number, of `count`."""
        self._client, self._process, self._count = client, process, count
        self._lock = threading.Lock()  # held in a round: nobody passes a boundary meanwhile
        self._place: _Place = None
        self._agreed: list[tuple[str, int, int]] = []  # what, after which step of which loop
        self._is_stopping = False
        self._wanted: set[str] = set()
        self._round = 0
        self._last_sign = 0.0
        self._signs: dict[str, tuple[str, float]] = {}  # by process: its last one, since when
        self._silent: set[str] = set()
        self._closing = threading.Event()
        self._wake_read, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        interrupts.set_answer(lambda: self.ask(STOP), of_ctrl_c=True)
        self._thread = threading.Thread(target=self._work, daemon=True, name="peers")
        self._thread.start()
        atexit.register(self.close)  # before JAX leaves the coordinator

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, whose clock counts."""
        return self._process == 0

    def ask(self, what: str) -> None:
        """Asks all processes to STOP or to SAVE at the next boundary that they can agree on."""
        self._wanted.add(what)
        os.write(self._wake, b"\0")

    def pass_boundary(self, loop: int, step: int) -> set[str]:
        """Notes that `step` of a loop is made; what all processes do now, before the next one."""
        with self._lock:
            self._place = loop, step
            due = [a for a in self._agreed if a[1] == loop and step > a[2]]
            self._agreed = [agreement for agreement in self._agreed if agreement not in due]
            return {what for what, _, _ in due}

    def leave_loop(self) -> bool:
        """Notes that the loop is over; whether it should have stopped at a later boundary."""
        with self._lock:
            self._place = None
            return any(what == STOP for what, _, _ in self._agreed)

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        if self._thread is not threading.current_thread():
            os.write(self._wake, b"\0")
            self._thread.join(timeout=5)

    # --- in the thread ------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._closing.is_set():
                if select.select([self._wake_read], [], [], _BETWEEN)[0]:
                    os.read(self._wake_read, 4096)
                self._give_and_look_for_signs()
                self._pass_on()
                if what := self._called_round():
                    self._meet(what)
        except Exception as error:
            if not self._closing.is_set():
                self._end(
                    "lost the other processes: process 0, or one that should have answered, is "
                    f"gone ({errors.first_line(error)})"
                )

    def _give_and_look_for_signs(self) -> None:
        """Names a silent process; JAX, which ends the others, does not."""
        now = time.monotonic()
        if now - self._last_sign < _BETWEEN_SIGNS:
            return
        self._last_sign = now
        key = f"{_ROOT}/signs/{self._process}"
        self._client.key_value_set(key, f"{now}", allow_overwrite=True)
        for process, sign in self._entries("signs"):
            if self._signs.get(process, ("", 0.0))[0] != sign:
                self._signs[process] = sign, now
                self._silent.discard(process)
            elif now - self._signs[process][1] > _SILENCE and process not in self._silent:
                self._silent.add(process)
                interrupts.write_stderr(
                    f"\nprocess {process} of {self._count} has not been heard of for "
                    f"{_SILENCE:.0f} s. If it is gone, all end within a minute; "
                    f"{interrupts.KEPT}. Run the same command again to go on\n"
                )

    def _pass_on(self) -> None:
        """Own wishes to the coordinator; in process 0, a round for the first of all wishes."""
        while self._wanted:
            self._client.key_value_set(
                f"{_ROOT}/asked/{self._wanted.pop()}", str(self._process), allow_overwrite=True
            )
        if self._process == 0 and not self._is_stopping and not self._called_round():
            asked = sorted(name for name, _ in self._entries("asked"))
            if asked:
                self._client.key_value_delete(f"{_ROOT}/asked/{asked[-1]}")  # to stop, before all
                self._client.key_value_set(f"{_ROOT}/rounds/{self._round + 1}", asked[-1])

    def _called_round(self) -> str | None:
        """What the next round is about; None where none is called."""
        return dict(self._entries("rounds")).get(str(self._round + 1))

    def _entries(self, folder: str) -> Iterable[tuple[str, str]]:
        entries = self._client.key_value_dir_get(f"{_ROOT}/{folder}/")
        return [(key.rpartition("/")[2], value) for key, value in entries]

    def _meet(self, what: str) -> None:
        """Tells and hears who is where, and agrees on the boundary."""
        with self._lock:
            self._round += 1
            folder = f"places/{self._round}"
            self._client.key_value_set(f"{_ROOT}/{folder}/{self._process}", json.dumps(self._place))
            self._client.wait_at_barrier(f"{_ROOT} round {self._round}", _LONGEST_ROUND_MS)
            places: list[_Place] = [json.loads(place) for _, place in self._entries(folder)]
            if self._process == 0:  # all have read the round, and the places of the one before
                self._client.key_value_delete(f"{_ROOT}/rounds/{self._round}")
                if self._round > 1:
                    self._client.key_value_delete(f"{_ROOT}/places/{self._round - 1}/")
            in_loops = [place for place in places if place]
            loops = {loop for loop, _ in in_loops}
            if len(in_loops) == len(places) and len(loops) == 1:
                self._agreed.append((what, loops.pop(), max(step for _, step in in_loops)))
                self._is_stopping |= what == STOP
            elif what == STOP:
                self._end("stopped, as one of the processes was told to end by a signal")

    def _end(self, why: str) -> None:
        """Ends this process where it is; whatever it writes is whole or not there."""
        interrupts.write_stderr(
            f"\n{why}; {interrupts.KEPT}. Run the same command again to go on\n"
        )
        sys.stdout.flush()
        if self._process == 0:
            time.sleep(2 * _BETWEEN)  # the coordinator lives here, and the others still ask it
        os._exit(interrupts.RESTART)
