"""Several processes that tag into one folder: each file is done by one of them.

A process claims a file before it reads it, with a small file in a hidden folder of the output. It
holds a lock for as long as it lives, so that others see at once when it was killed, on this machine
or (where the file system knows locks) another, and take over what it had claimed.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping

from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.tagged_files import Input

FOLDER = ".psl_jax-tag"
_WORKER = ".worker"


class Claims:
    """The files that this process works on; a context manager, at whose end they are let go."""

    def __init__(self, folder: str | os.PathLike):
        """folder: that outputs are written to. Raises UserError where it knows no locks."""
        self.folder = pathlib.Path(folder) / FOLDER
        self._name = uuid.uuid4().hex
        try:
            with self._locked():
                self._own = open(self.folder / f"{self._name}{_WORKER}", "w")  # noqa: SIM115
                fcntl.flock(self._own, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"cannot lock files in {folder} ({error.strerror}), which --skip_existing needs to "
                "share the work between processes: choose a --out on another file system"
            ) from error

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._locked():
            self._own.close()
            (self.folder / f"{self._name}{_WORKER}").unlink(missing_ok=True)
            if not any(self._lives(path.stem) for path in self.folder.glob(f"*{_WORKER}")):
                shutil.rmtree(self.folder, ignore_errors=True)

    def take(self, output: str | os.PathLike) -> bool:
        """Claims the file whose output this is; False where a living process has."""
        claim = self._claim(output)
        with self._locked():
            if claim.exists() and self._lives(claim.read_text()):
                return False
            claim.write_text(self._name)
            return True

    def release(self, output: str | os.PathLike) -> None:
        """Lets go of what was taken, when its output is there or it cannot be tagged."""
        self._claim(output).unlink(missing_ok=True)

    def _claim(self, output: str | os.PathLike) -> pathlib.Path:
        return self.folder / hashlib.sha1(os.fsencode(output)).hexdigest()

    def _lives(self, name: str) -> bool:
        if name == self._name:
            return not self._own.closed
        try:
            with open(self.folder / f"{name}{_WORKER}", "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes. The last one removes the folder: then a new one is made."""
        path = self.folder / "lock"
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                file = open(path, "w")  # noqa: SIM115
            except FileNotFoundError:
                continue
            with file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    yield
                    return


def unclaimed(
    inputs: Iterable[Input], outputs: Mapping[Input, pathlib.Path], claims: Claims | None
) -> Iterator[Input]:
    """The inputs without output, each claimed when its turn comes.

    Those that others have claimed are looked at once more at the end: their process may have died.
    claims: None where files cannot be locked, in a bucket: two processes may then do one file, and
    the last one's output stays.
    """
    if claims is None:
        inputs = list(inputs)
        there = files.exist([outputs[item] for item in inputs])
        yield from (item for item, done in zip(inputs, there, strict=True) if not done)
        return
    left: list[Input] = []
    for again, group in ((False, inputs), (True, left)):
        for item in group:
            output = outputs[item]
            if output.exists():
                continue
            if not claims.take(output):
                if not again:
                    left.append(item)
            elif output.exists():  # it was written between the two
                claims.release(output)
            else:
                yield item
