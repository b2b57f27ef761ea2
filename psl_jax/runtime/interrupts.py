"""Signals: Ctrl-C is answered at once, and SIGTERM ends a process so that it can be restarted.

SIGHUP (a terminal that is closed) and SIGUSR1 (of a cluster, before the time is up) do as SIGTERM.
Several processes stop at the same step of a loop: see `distributed.Boundaries`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# Exit status (EX_TEMPFAIL of sysexits.h) of a process that was told to end, or whose peers are
# gone: launchers start the same command again, which goes on.
RESTART = 75

TO_END = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

KEPT = "what is whole is kept: stages, shards, checkpoints"


class Preempted(BaseException):
    """The process was told to end, which is no failure; the message says what is kept."""


_announced: dict[str, object] = {}  # texts, each with its first caller's token
_asked: list[bool] = []  # an element for each Ctrl-C that a handler answered
_seen: list[bool] = []  # and for each that the thread saw, which is often earlier
_deferring: list[bool] = []  # an element for each `defer_signals` in which the main thread is
_terminated: list[bool] = []
_answers: list[Callable[[], object]] = []
_wake: list[int] = []  # where Python writes the number of each signal


def install_handlers() -> None:
    """From now on Ctrl-C and TO_END are answered here; KeyboardInterrupt is raised as ever."""
    # Of an earlier command in this process.
    for state in (_announced, _answers, _asked, _seen, _deferring, _terminated):
        state.clear()
    signal.signal(signal.SIGINT, _interrupted)
    for number in TO_END:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # by nohup
            signal.signal(number, _told_to_end)
    sys.unraisablehook = _unraisable
    if not _wake:
        signals, wake = os.pipe()
        os.set_blocking(wake, False)
        _wake.append(wake)
        threading.Thread(target=_answer_at_once, args=(signals,), daemon=True).start()
        # A forked process shares the pipe, and its signals are not ours.
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    signal.set_wakeup_fd(_wake[0], warn_on_full_buffer=False)


@contextlib.contextmanager
def end_at_once() -> Iterator[None]:
    """A signal ends the process at once in here: native code that waits runs no handler of ours."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *TO_END)}
    ours = {n: handler for n, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for number in ours:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def set_answer(answer: Callable[[], object] | None, *, of_ctrl_c: bool = False) -> None:
    """What TO_END do from now on, instead of raising Preempted; None: that again.

    It is called in a thread, too, and for each signal. of_ctrl_c: Ctrl-C does the same.
    """
    _answers[:] = [answer] if answer else []
    if of_ctrl_c:
        signal.signal(signal.SIGINT, _told_to_end)


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Signals are answered at the end of this: what works in threads is not left half-way.

    A second Ctrl-C ends the process at once here, too.
    """
    with _defer_ctrl_c(), _defer_to_end():
        yield


@contextlib.contextmanager
def _defer_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # no handler runs in others
        yield
        return
    num_before = len(_asked)
    _deferring.append(True)
    try:
        yield
    finally:
        _deferring.pop()
    if len(_asked) > num_before and not _deferring:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _defer_to_end() -> Iterator[None]:
    if _answers or _terminated:
        yield
        return
    set_answer(lambda: None)
    try:
        yield
    finally:
        set_answer(None)
    if _terminated:
        raise Preempted(KEPT)


def is_ending() -> bool:
    """Whether there was one of TO_END."""
    return bool(_terminated)


def is_interrupted() -> bool:
    """Whether there was a Ctrl-C."""
    return bool(_asked or _seen)


def announce(number: int) -> None:
    """Says what a signal does, once: in a thread, or in the handler if that runs first."""
    handler = signal.getsignal(number)
    if handler is _interrupted:
        text = "stopping: the step or file in work is finished first (Ctrl-C again: at once)"
    elif handler is _told_to_end:
        name = signal.Signals(number).name
        text = f"told to end ({name}): what is being done is finished and saved first"
    else:
        return
    token = object()
    if _announced.setdefault(text, token) is token:
        write_stderr(f"\n{text}\n")


def _answer_at_once(signals: int) -> None:
    """In a thread: while the main one is in native code, such as a step, no handler can run."""
    while True:
        for number in os.read(signals, 4096):
            announce(number)
            handler = signal.getsignal(number)
            for answer in tuple(_answers) if handler is _told_to_end else ():
                answer()
            if number == signal.SIGINT and handler in (_interrupted, _told_to_end):
                _count(_seen)


def _interrupted(number: int, frame: FrameType | None) -> None:
    del frame
    announce(number)
    _count(_asked)
    if not _deferring:
        raise KeyboardInterrupt


def _told_to_end(number: int, frame: FrameType | None) -> None:
    del frame
    announce(number)
    if number == signal.SIGINT:
        _count(_asked)
    if _terminated:  # it is being done
        return
    _terminated.append(True)
    if not _answers:
        raise Preempted(KEPT)
    _answers[0]()


def _count(ctrl_cs: list[bool]) -> None:
    """Ends the process at the second Ctrl-C, in the thread or, where that sees none, a handler."""
    ctrl_cs.append(True)
    if len(ctrl_cs) > 1:
        write_stderr(f"\nstopped at once; {KEPT}. Run the same command again to go on\n")
        os._exit(130)


def _unraisable(ignored: Any) -> None:
    """Sends the signal again where Preempted was raised in what lets no exception out, as in gc."""
    if not isinstance(ignored.exc_value, Preempted):
        sys.__unraisablehook__(ignored)
        return
    _terminated.clear()
    again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    again.daemon = True
    again.start()


def write_stderr(text: str) -> None:
    """Writes to stderr, if that is still there, whatever is being printed meanwhile."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
