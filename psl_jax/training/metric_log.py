"""The training log: one JSON line a measurement, and the same for TensorBoard.

Imports neither JAX nor TensorFlow. Without tensorboardX only the JSON lines are written.
"""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError

LOG_NAME = "train_log.jsonl"

# Names that the reports look for; any other name may be logged beside them.
LOSS = "loss"
VALIDATION_MAP = "val_mAP"
LEARNING_RATE = "learning_rate"
SEGMENTS_PER_SECOND = "segments_per_second"  # of all devices, without validating and saving
INPUT_WAIT = "input_wait"  # share of that time in which training waited for its input


class MetricLog:
    """Appends measurements to `run_dir/train_log.jsonl` and to events in `run_dir/tb`.

    With `resume_step` k > 0 what an interrupted run logged after step k is cut away, so that its
    log becomes that of an undisturbed run; without it the log starts empty. For this to hold, log
    everything of step k *before* saving its checkpoint. `active=False` (all processes but the
    first) makes every call do nothing.
    """

    def __init__(
        self, run_dir: str | os.PathLike, resume_step: int | None = None, *, active: bool = True
    ) -> None:
        self._file = self._events = None
        if not active:
            return
        path = pathlib.Path(run_dir) / LOG_NAME
        kept = [line for step, line in _lines(path) if step <= resume_step] if resume_step else []
        with files.atomic_open(path) as file:
            file.writelines(kept)
        self._file = path.open("a")
        self._events = _event_writer(pathlib.Path(run_dir) / "tb", resume_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs scalars `values` (name → number or 0-d array) at `step`; the line is flushed.

        A number that is not finite is written as null, which keeps the file valid JSON.
        """
        if self._file is None:
            return
        numbers = {name: _scalar(name, value) for name, value in values.items()}
        line = {"step": int(step), "time": round(time.time(), 3)} | numbers
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, number in numbers.items():
                value = math.nan if number is None else number
                self._events.add_scalar(name, value, global_step=int(step))

    def close(self) -> None:
        for writer in (self._file, self._events):
            if writer is not None:
                writer.close()
        self._file = self._events = None

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_log(run_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of `run_dir/train_log.jsonl`, [] if there is none.

    A last line that was cut off is dropped; any other broken line is a UserError.
    """
    path = pathlib.Path(run_dir) / LOG_NAME
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


def _scalar(name: str, value: Any) -> float | int | None:
    if name in ("step", "time"):
        raise ValueError(f"{name!r} is written by the log itself; choose another name")
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, int) or math.isfinite(value) else None


def _event_writer(folder: pathlib.Path, resume_step: int | None) -> Any:
    try:
        import tensorboardX
    except ImportError:
        return None
    # The purge makes TensorBoard hide what an interrupted run wrote after `resume_step`; the
    # suffix keeps writers opened within the same second from sharing (and emptying) a file.
    old = folder.exists() and any(folder.iterdir())
    purge = resume_step + 1 if resume_step else 0
    return tensorboardX.SummaryWriter(
        str(folder),
        purge_step=purge if old else None,
        filename_suffix=f".{os.getpid()}.{resume_step or 0}",
    )
