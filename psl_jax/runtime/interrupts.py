"""Ctrl-C: answered at once, and a second one ends the process and says what is kept."""

import os
import signal
from types import FrameType

_saved: list[str] = []  # what was saved last
_asked: list[bool] = []


def handle() -> None:
    """From now on Ctrl-C is answered here; KeyboardInterrupt is raised as ever."""
    signal.signal(signal.SIGINT, _interrupted)


def note_saved(what: str) -> None:
    """Notes what is safe now: told when the process is ended at once."""
    _saved[:] = [what]


def _interrupted(number: int, frame: FrameType | None) -> None:
    del number, frame
    if _asked:
        kept = f"kept: {_saved[0]}" if _saved else "finished stages are kept"
        _tell(f"\nstopped at once; {kept}. Run the same command again to go on\n")
        os._exit(130)
    _asked.append(True)
    _tell("\nstopping: what is being done is ended in order (Ctrl-C again: at once)\n")
    raise KeyboardInterrupt


def _tell(text: str) -> None:
    os.write(2, text.encode())  # whatever is being printed meanwhile
