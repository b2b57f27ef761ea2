"""Checkpoints in a bucket: a local folder that Orbax writes, sent checkpoint by checkpoint."""

import pathlib
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from psl_jax.runtime.paths import remove_tree

_WHOLE = "commit_success.txt"  # written last; Orbax's own name for it in a bucket


class CheckpointMirror:
    """A temporary copy of a folder of checkpoints in a bucket.

    Each process of a run has a copy, which Orbax reads and writes. Process 0 sends it.
    """

    def __init__(self, place: pathlib.Path):
        self._place = place
        self._temporary = tempfile.TemporaryDirectory(prefix="psl_jax-")
        self.folder = pathlib.Path(self._temporary.name)
        self._thread = ThreadPoolExecutor(1)
        self._sent = {path.parent.name for path in place.glob(f"*/{_WHOLE}")}
        for step in self._sent:
            (place / step).download(self.folder / step)  # type: ignore[attr-defined]

    def send_after(self, saving: Any, note_sent: Callable[[], None]) -> Future[None]:
        """Sends the folder in a thread, once Orbax has written it, and calls `note_sent` then."""

        def send() -> None:
            saving.result()
            if jax.process_index() == 0:
                self._send()
            note_sent()

        return self._thread.submit(send)

    def _send(self) -> None:
        steps = {path.name for path in self.folder.iterdir() if path.name.isdecimal()}
        for step in steps - self._sent:
            remove_tree(self._place / step)  # what a killed process sent
            (self._place / step).upload(self.folder / step)  # type: ignore[attr-defined]
            (self._place / step / _WHOLE).write_bytes(b"")
        for step in self._sent - steps:
            (self._place / step / _WHOLE).unlink(missing_ok=True)
            remove_tree(self._place / step)
        self._sent = steps

    def close(self) -> None:
        self._thread.shutdown()
        self._temporary.cleanup()
