"""Where a training's measurements go besides train_log.jsonl: TensorBoard, wandb, trackio, mlflow.

Each library is imported by its own class only. The services take their address, project and mode
from their own variables, such as WANDB_MODE.
"""

import importlib.util
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from psl_jax.runtime.errors import UserError
from psl_jax.runtime.settings import flatten

EVENTS = "tb"
_PROJECT = "psl_jax"


class LoggedRun(NamedTuple):
    """The run that is logged."""

    folder: pathlib.Path  # of this machine; its files come into the run folder
    name: str  # for people
    identity: str  # a text that no other run has; the same when the run continues
    resume_step: int  # that it continues after; 0 from the start
    config: Mapping[str, Any]  # its settings


class Logger(Protocol):
    """Takes measurements; made of a `LoggedRun`."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs scalars at a step; a number that is not finite is NaN. Steps may come again."""

    def flush(self) -> None:
        """What was logged is in `folder` when this returns."""

    def close(self, *, failed: bool) -> None:
        """Ends the run there; `failed`: by an error, or before its end."""


class TensorBoard(Logger):
    """Writes events into `folder/tb`."""

    def __init__(self, run: LoggedRun):
        # It would import PyTorch, for tensors that it is never given: two seconds of every run.
        hides_torch = "torch" not in sys.modules
        if hides_torch:
            sys.modules["torch"] = None  # type: ignore[assignment]  # "import torch" fails
        try:
            from tensorboardX import SummaryWriter
        finally:
            if hides_torch:
                del sys.modules["torch"]
        # The purge makes TensorBoard hide what an interrupted run wrote after `resume_step`; the
        # suffix keeps writers opened within the same second from sharing (and emptying) a file.
        self._events = SummaryWriter(
            str(run.folder / EVENTS),
            purge_step=run.resume_step + 1,
            filename_suffix=f".{os.getpid()}.{run.resume_step}",
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, global_step=step)

    def flush(self) -> None:
        self._events.flush()

    def close(self, *, failed: bool) -> None:
        self._events.close()


class Wandb(Logger):
    """A run of wandb; WANDB_MODE=offline keeps it in `folder/wandb`, for `wandb sync`."""

    def __init__(self, run: LoggedRun):
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=run.name,
            id=run.identity,
            resume="allow",
            reinit="create_new",  # a suite trains several runs in one process
            dir=str(run.folder),
            config=dict(run.config),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        # It ignores steps that come again after a kill; they have the same values.
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class Trackio(Wandb):
    """A run of trackio, in its own folder (TRACKIO_DIR); it has wandb's methods."""

    def __init__(self, run: LoggedRun):
        import trackio

        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
            name=f"{run.name}-{run.identity}",
            resume="allow",
            config=dict(run.config),
            embed=False,
        )

    def close(self, *, failed: bool) -> None:
        self._run.finish()


class Mlflow(Logger):
    """A run of mlflow, at MLFLOW_TRACKING_URI in MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, run: LoggedRun):
        from mlflow import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        query = f"tags.psl_jax = '{run.identity}'"
        runs = self._client.search_runs([number], query)
        if not runs:
            tags = {"psl_jax": run.identity}
            runs = [self._client.create_run(number, run_name=run.name, tags=tags)]
        self._id = runs[0].info.run_id
        for key, value in flatten(run.config):
            if key not in runs[0].data.params:
                self._client.log_param(self._id, key, value)
        self._client.update_run(self._id, status="RUNNING")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


LOGGERS: dict[str, Callable[[LoggedRun], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": Mlflow,
}


def parse_loggers(names: str) -> list[str]:
    """Parses the setting `train.loggers`."""
    return [name.strip() for name in names.split(",") if name.strip()]


def check_loggers(names: str) -> None:
    """Raises UserError for a name that is unknown, or whose package is not installed."""
    for name in parse_loggers(names):
        where = f"config.train.loggers is {names!r}: {name!r}"
        if name not in LOGGERS:
            raise UserError(f"{where} is none of {', '.join(LOGGERS)}")
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise UserError(f"{where} is not installed; pip install {name}")
