"""The boundaries between the steps of a loop, where it can be told to stop or to save."""

import time
from types import TracebackType
from typing import NamedTuple, Self

from psl_jax.runtime import distributed, interrupts, peers


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
        self._peers = distributed.get_peers()

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

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raises Preempted where the loop came to its end before it could be stopped."""
        if self._peers is None:
            interrupts.set_answer(None)
            stops = interrupts.is_ending()
        else:
            stops = self._peers.leave_loop()
        if stops and error is None:
            raise interrupts.Preempted(interrupts.what_is_kept())
