"""The training log: one JSON line a measurement, and the same for `loggers`. Needs no JAX."""

import contextlib
import json
import math
import os
import pathlib
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of
from psl_jax.runtime.run_files import LOG_ID, read_config
from psl_jax.training.loggers import LOGGERS, LoggedRun, Logger, parse_loggers

LOG_NAME = "train_log.jsonl"

# Names that the reports look for; any other name may be logged beside them.
LOSS = "loss"
VALIDATION_MAP = "val_mAP"
LEARNING_RATE = "learning_rate"
SEGMENTS_PER_SECOND = "segments_per_second"  # of all devices, without validating and saving
INPUT_WAIT = "input_wait"  # share of that time in which training waited for its input


class MetricLog:
    """Appends measurements to `run_dir/train_log.jsonl`, and gives them to the loggers.

    What an interrupted run logged after `resume_step` is cut away, so that its log becomes that of
    an undisturbed run: everything of a step is to be logged *before* its checkpoint is saved.

    Nothing can be appended to an object: for a run folder in a bucket files are written on this
    machine, and sent whole at `flush` and when closed.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        resume_step: int | None = None,
        *,
        active: bool = True,
        loggers: str = "tensorboard",
    ) -> None:
        """Opens the log; without `resume_step` an empty one.

        active: False makes every call do nothing, for all processes but the first. loggers: names
        of LOGGERS, separated by commas.
        """
        self._file = self._temporary = None
        self._loggers: dict[str, Logger] = {}
        if not active:
            return
        place = path_of(run_dir)
        old = _lines(place / LOG_NAME) if resume_step else []
        kept = [line for step, line in old if step <= (resume_step or 0)]
        self._place = folder = place
        if is_remote(place):
            self._temporary = tempfile.TemporaryDirectory(prefix="psl_jax-log-")
            folder = pathlib.Path(self._temporary.name)
        with files.atomic_open(folder / LOG_NAME) as file:
            file.writelines(kept)
        self._file = (folder / LOG_NAME).open("a")
        if names := parse_loggers(loggers):
            run = _describe_run(place, folder, resume_step or 0)
            for name in names:
                with self._warn_once(name):
                    self._loggers[name] = LOGGERS[name](run)
        self.flush()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs scalars (name → number or 0-d array); what is not finite is written as null."""
        if self._file is None:
            return
        numbers = {name: _scalar(value) for name, value in values.items()}
        line = {"step": int(step), "time": round(time.time(), 3)} | numbers
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        floats = {name: math.nan if n is None else n for name, n in numbers.items()}
        self._tell_loggers(lambda logger: logger.write(int(step), floats))

    def flush(self) -> None:
        """What was logged is in the run folder when this returns."""
        if self._temporary is not None:
            self._tell_loggers(lambda logger: logger.flush())
            files.copy_tree(pathlib.Path(self._temporary.name), self._place)

    def close(self, *, failed: bool = False) -> None:
        """Closes it; a run that failed is marked so by the loggers."""
        if self._file is not None:
            self._file.close()
        self._tell_loggers(lambda logger: logger.close(failed=failed))
        self._file, self._loggers = None, {}
        if self._temporary is not None:
            self.flush()
            self._temporary.cleanup()
            self._temporary = None

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close(failed=error[0] is not None)

    def _tell_loggers(self, tell: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            with self._warn_once(name):
                tell(logger)

    @contextlib.contextmanager
    def _warn_once(self, name: str) -> Iterator[None]:
        """Goes on without a logger that fails, as where its service is down."""
        try:
            yield
        except Exception as error:
            self._loggers.pop(name, None)
            print(
                f"warning: {name} logs no more of this run, {LOG_NAME} has it all: {error}",
                file=sys.stderr,
            )


def _describe_run(place: pathlib.Path, folder: pathlib.Path, resume_step: int) -> LoggedRun:
    """Describes a run folder, whose local files lie in `folder`; a run from the start is new."""
    if not (resume_step and (place / LOG_ID).exists()):
        with files.atomic_open(place / LOG_ID) as file:
            file.write(uuid.uuid4().hex[:12])
    return LoggedRun(
        folder,
        name=place.name,
        identity=(place / LOG_ID).read_text(),
        resume_step=resume_step,
        config=read_config(place),
    )


def read_log(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of `run_dir/train_log.jsonl`, but one that was cut off; UserError for damage."""
    path = path_of(run_dir) / LOG_NAME
    return [json.loads(line) for _, line in _lines(path)]


def _lines(path: pathlib.Path) -> list[tuple[int, str]]:
    """(step, line) of each whole line; one without its newline was being written when killed."""
    if not path.exists():
        return []
    result = []
    with path.open(errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                break
            try:
                result.append((int(json.loads(line)["step"]), line))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}: expected a JSON object with a step, "
                    f"got {line[:80]!r}. Mend or remove that line."
                ) from error
    return result


def _scalar(value: Any) -> float | int | None:
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, int) or math.isfinite(value) else None
