"""The loop around the training step: when to log, validate, save and stop."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from psl_jax.data.segment_loader import Batch
from psl_jax.networks.architecture import Variables
from psl_jax.runtime import parallel, progress
from psl_jax.runtime.distributed import Boundaries
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.interrupts import Preempted
from psl_jax.training import metric_log
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.settings import TrainSettings
from psl_jax.training.step import TrainState

_NOT_FINITE = (
    "The checkpoints before it are kept. Try a smaller train.learning_rate, or "
    "model.dtype=float32, with another --workdir or --start_afresh."
)


class EarlyStop:
    """Tells when the mAP has not become better for `patience` steps, at first since step 0."""

    def __init__(self, patience: int, history: Iterable[tuple[int, float]] = ()):
        """history: (step, mAP) of the validations so far."""
        self.patience, self.best = patience, -math.inf
        self.best_step = self.step = 0
        for step, value in history:
            self.update(step, value)

    def update(self, step: int, value: float) -> bool:
        """Takes the mAP at a step; True if training should end."""
        self.step = step
        if value > self.best:
            self.best, self.best_step = value, step
        return self.is_over

    @property
    def is_over(self) -> bool:
        return 0 < self.patience <= self.step - self.best_step


Feed = Callable[[int], Iterator[Batch]]  # this process's batches from a step on
Values = dict[str, jax.Array]  # a batch, or what a step tells, such as its loss

_INPUTS = ("audio", "features", "num_samples", "labels")


def _device_inputs(batch: Batch) -> Batch:
    return {name: batch[name] for name in _INPUTS if name in batch}


def train(
    state: TrainState,
    *,
    program: Callable[..., Any],
    feed: Feed,
    mesh: Mesh,
    settings: TrainSettings,
    validate: Callable[[Variables], float] | None,
    checkpoints: TrainingCheckpoints,
    run_dir: str,
    description: str,
) -> None:
    """Trains from the latest checkpoint (or `state`) until `max_steps` or the early stop.

    A killed run that is called again gives what an undisturbed one would have given.

    Args:
      program: a `step.train_program`.
      feed: of `batches.train_batches`; a thread reads it and puts batches on the devices.
      settings: of `TrainSettings.in_steps`.
      validate: gives the mAP; None: training goes on to `max_steps`.

    Raises UserError when the loss or the state is not finite. Raises Preempted, in all processes
    after the same step, when one of them was told to end; the state is saved then.
    """
    state = checkpoints.restore(parallel.replicate(state, mesh))
    start = int(state.step)
    is_first = jax.process_index() == 0
    log = metric_log.MetricLog(run_dir, start, active=is_first, loggers=settings.loggers)
    stop = EarlyStop(settings.patience, _read_validation_maps(run_dir, start))
    if start >= settings.max_steps or stop.is_over:
        log.close()
        return
    if is_first:
        where = f"goes on from step {start}" if start else "begins"
        print(f"{description} {where}; compiling its program may take a minute", flush=True)
    bar = progress.bar(settings.max_steps, "step", description, start, show=is_first)
    is_over = False
    meter = _Meter(log, settings)
    batches = parallel.prefetch(
        feed(start), lambda batch: parallel.put_batch(_device_inputs(batch), mesh)
    )
    with (
        log,
        bar,
        contextlib.closing(batches),
        Boundaries(start, settings.checkpoint_minutes) as boundaries,
    ):
        for step in range(start + 1, settings.max_steps + 1):
            batch = meter.wait_for(batches)
            state, values = program(state, batch, settings.rate(step - 1))
            meter.add(values)
            if step == start + 1:  # the time of this one went into compiling
                bar.initial = step
                bar.unpause()
            bar.update()
            asked = boundaries.passed(step)
            validates = step % settings.validate_every == 0 or step == settings.max_steps
            ends_line = validates or step % settings.checkpoint_every == 0
            saves = ends_line or asked.save or asked.stop
            if step % settings.log_every == 0 or ends_line:
                meter.end_line(step, wait=ends_line)
            if saves:
                meter.write_pending()
                on_host = _finite_on_host(step, state)
            rank = float(step)
            if validates and validate is not None:
                rank = validate(state.variables)
                log.write(step, {metric_log.VALIDATION_MAP: rank})
                bar.set_postfix(mAP=f"{rank:.4f}", best=f"{max(rank, stop.best):.4f}")
                is_over = stop.update(step, rank)
            if saves:
                log.flush()  # before the step counts as made
                checkpoints.save(step, on_host, rank if validates else None)
                boundaries.note_saved()
                meter.restart_clock()
            if asked.stop:
                raise Preempted(f"{description}, step {step} is saved")
            if is_over:
                break


def _read_validation_maps(run_dir: str, last_step: int) -> list[tuple[int, float]]:
    """(step, validation mAP) of the log of a run, up to `last_step`."""
    # Other processes may read the log before the first one has cut off what came after it.
    lines = [line for line in metric_log.read_log(run_dir) if line["step"] <= last_step]
    key = metric_log.VALIDATION_MAP
    return [(line["step"], line[key]) for line in lines if key in line]


def _finite_on_host(step: int, state: TrainState) -> TrainState:
    """The state as NumPy arrays, until the next step. Raises UserError where it is not finite."""
    on_host: TrainState = parallel.to_host(state)
    bad = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(on_host)
        if not np.isfinite(leaf).all()
    ]
    if bad:
        raise UserError(
            f"after step {step} {len(bad)} arrays of the training's state are not finite, such as "
            f"{bad[0]}. {_NOT_FINITE}"
        )
    return on_host


class _Meter:
    """Logs means over the steps since the line before, and how fast they were made.

    A line is written when the next one is due, so that dispatch stays asynchronous; or at once,
    before a checkpoint, so that what is saved is known to be good.
    """

    def __init__(self, log: metric_log.MetricLog, settings: TrainSettings):
        self.log, self.settings = log, settings
        self.values: list[Values] = []  # of each step since the last line
        self.pending: tuple[int, list[Values], dict[str, float]] | None = None
        self.timed_steps = -1  # none yet: the first call compiles
        self.waited_seconds = 0.0  # for the input, of these steps

    def wait_for(self, batches: Iterator[Values]) -> Values:
        """Takes the next batch."""
        start = time.perf_counter()
        batch = next(batches)
        self.waited_seconds += time.perf_counter() - start
        return batch

    def add(self, values: Values) -> None:
        """Takes what a step gave."""
        self.values.append(values)
        if self.timed_steps < 0:
            self.restart_clock()
        else:
            self.timed_steps += 1

    def restart_clock(self) -> None:
        """Leaves the time since the last line out, which was spent on something else."""
        self.timed_steps, self.waited_seconds = 0, 0.0
        self.since = time.perf_counter()

    def end_line(self, step: int, wait: bool) -> None:
        """Ends a line of the log at `step`; wait: until it is written. UserError if not finite."""
        self.write_pending()
        if wait:
            jax.block_until_ready(self.values)
        self.pending, self.values = (step, self.values, self._speed()), []
        self.restart_clock()
        if wait:
            self.write_pending()

    def _speed(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.since
        if not self.timed_steps or not seconds:
            return {}
        segments = self.timed_steps * self.settings.batch_size
        return {
            metric_log.SEGMENTS_PER_SECOND: round(segments / seconds, 1),
            metric_log.INPUT_WAIT: round(min(self.waited_seconds / seconds, 1.0), 3),
        }

    def write_pending(self) -> None:
        """Waits for the values of the line that is due, and logs their means."""
        if self.pending is None:
            return
        step, of_steps, speed = self.pending
        self.pending = None
        means = {
            name: float(np.mean([float(values[name]) for values in of_steps]))
            for name in of_steps[0]
        }
        if not all(map(math.isfinite, means.values())):
            raise UserError(
                f"the loss is not finite at step {step}, or in the {len(of_steps)} steps up to it: "
                f"{means}. {_NOT_FINITE}"
            )
        rate = self.settings.rate(step - 1)
        self.log.write(step, means | {metric_log.LEARNING_RATE: rate} | speed)
