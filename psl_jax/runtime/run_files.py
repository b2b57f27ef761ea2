"""The stages of a run, the files of its folder, and the claim that one run alone works there."""

import contextlib
import enum
import fcntl
import os
import pathlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

from psl_jax.runtime import disk_errors, files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of


class Stage(enum.StrEnum):
    """The stages of a run, in their order."""

    PREPARE = "prepare"
    RELABEL = "relabel"
    TRAIN = "train"
    AVERAGE = "average"
    EVALUATE = "evaluate"
    REPORT = "report"

    @property
    def has_results(self) -> bool:
        """Whether a run up to this stage has metrics."""
        return self in (Stage.EVALUATE, Stage.REPORT)


CONFIG = "config.json"
STAGES_DONE = "stages.json"
LABEL_QUALITY = "label_quality.json"
NOTES = "notes.json"  # what to know before believing the figures
CHECKPOINTS = "checkpoints"
LOG_ID = "log_id.txt"  # what wandb and others call the run
DELETING = "deleting"  # there while --start_afresh deletes: what is left does not count
DATA = "data.json"  # which clips the run is of, and whose labels

# All that a run makes in its folder.
RUN_FILES = (
    *(CONFIG, DATA, NOTES, STAGES_DONE, LABEL_QUALITY, CHECKPOINTS),
    *("train_log.jsonl", "tb", LOG_ID, "wandb", "averaged", "soft_labels"),
    *("scores.npz", "metrics.json", "per_class.csv", "report.html"),
)


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the settings of the run in a folder; {}: none, as in a published folder."""
    config: dict[str, Any] = files.find_json(path_of(folder) / CONFIG) or {}
    return {} if "auto_map" in config else config


_LOCK = ".lock"
_SEEN_SECONDS = 10.0  # until a network disk shows what another machine has written


@contextlib.contextmanager
def claim_folder(folder: str | os.PathLike[str], option: str) -> Iterator[None]:
    """Makes a folder that this run alone works in within `with`; all processes come here.

    A folder that it made and that is empty at the end, as after a refusal, it removes.

    Raises UserError, in all of them, naming `option`: nothing can be written into it, another run
    works in it, or a process does not see what process 0 wrote. A bucket has no locks.
    """
    import jax

    from psl_jax.runtime import distributed

    place, probe, problem, lock = path_of(folder), "", "", None
    new_folders: list[pathlib.Path] = []
    is_first = jax.process_index() == 0
    if is_first:
        try:
            if place.exists() and not place.is_dir():
                raise UserError(
                    f"{option}={folder} is a file: give a folder, which need not be there yet"
                )
            if not is_remote(place):
                new_folders = [path for path in (place, *place.parents) if not path.exists()]
            disk_errors.check_writable(place, option)
            if not is_remote(place):
                lock = _lock(place, option)
            if jax.process_count() > 1:
                probe = f".psl_jax-{uuid.uuid4().hex}"
                (place / probe).write_bytes(b"")
        except UserError as error:
            problem = str(error)
    problem, probe = distributed.exchange([problem, probe])[0]
    if not problem and not is_first:
        end = time.monotonic() + _SEEN_SECONDS
        while not (place / probe).exists() and not problem:
            if time.monotonic() > end:
                problem = (
                    f"{option}={folder} is another folder in process {jax.process_index()} than in "
                    "process 0, which wrote a file that is not seen. Give an "
                    f"{option} on a disk that all share"
                )
            time.sleep(0.2)
    problems = distributed.exchange(problem)
    if is_first and probe:
        (place / probe).unlink()
    if any(problems):
        distributed.leave()
        raise UserError(next(filter(None, problems)))
    try:
        yield
    finally:
        if lock is not None:
            (place / _LOCK).unlink(missing_ok=True)
            os.close(lock)
            with contextlib.suppress(OSError):  # of the first that is not empty
                for path in new_folders:
                    path.rmdir()


def _lock(folder: pathlib.Path, option: str) -> int | None:
    """Locks the folder while a file is open, or None. Raises UserError where another run has it.

    A POSIX lock ends with the process, and holds between the machines of a network disk.
    """
    path = folder / _LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        os.close(descriptor)
        raise UserError(
            f"another run is working in {folder}: wait for its end, or give another {option}"
        ) from error
    except OSError:  # a disk without locks
        os.close(descriptor)
        return None
    return descriptor
