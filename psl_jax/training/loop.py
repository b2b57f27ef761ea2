"""The loop around the training step: when to log, validate, save and stop."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

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
Values = dict[str, jax.Array]  # what a step tells, such as its loss

_INPUTS = ("audio", "features", "num_samples", "labels")


class Stepper:
    """Makes steps on batches that a thread puts on the devices, from the first call of `run` on."""

    def __init__(self, program: Callable[..., Any], feed: Feed, mesh: Mesh):
        """program: a `step.train_program`; feed: of `batches.train_batches`."""
        self._program, self._feed, self._mesh = program, feed, mesh
        self._batches: Any = None  # a generator
        self._next = 0
        self.input_seconds = 0.0

    def run(self, state: TrainState, step: int, rate: float) -> tuple[TrainState, Values]:
        """Makes the step after `step` finished ones, at the learning rate `rate`.

        The old state is donated. Returns the new one and the step's values, which the devices may
        still be computing. Raises ValueError where `step` does not follow the last call's.
        """
        start = time.perf_counter()
        if self._batches is None:
            self._batches = parallel.prefetch(self._feed(step), self._put)
        elif step != self._next:
            raise ValueError(f"step {step} is asked for, {self._next} comes next")
        self._next = step + 1
        batch = next(self._batches)
        self.input_seconds += time.perf_counter() - start
        made: tuple[TrainState, Values] = self._program(state, batch, rate)
        return made

    def _put(self, batch: Batch) -> dict[str, jax.Array]:
        return parallel.put_batch(_device_inputs(batch), self._mesh)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._batches is not None:
            self._batches.close()


def _device_inputs(batch: Batch) -> Batch:
    return {name: batch[name] for name in _INPUTS if name in batch}


def train(
    stepper: Stepper,
    state: TrainState,
    *,
    mesh: Mesh,
    settings: TrainSettings,
    validate: Callable[[Variables], float] | None,
    checkpoints: TrainingCheckpoints,
    run_dir: str,
    description: str,
) -> None:
    """Trains from the latest checkpoint (or `state`) until `max_steps` or the early stop.

    A killed run that is called again, with a new stepper, gives what an undisturbed one would have
    given. settings: of `TrainSettings.in_steps`. validate: gives the mAP; None: training goes on to
    `max_steps`.

    Raises UserError when the loss or the state is not finite. Raises Preempted, in all processes
    after the same step, when one of them was told to end; the state is saved then.
    """
    state = checkpoints.restore(parallel.replicate(state, mesh))
    start = int(state.step)
    is_first = jax.process_index() == 0
    log = metric_log.MetricLog(run_dir, start, active=is_first, loggers=settings.loggers)
    # Other processes may read the log before the first one has cut off what came after `start`.
    lines = [line for line in metric_log.read_log(run_dir) if line["step"] <= start]
    key = metric_log.VALIDATION_MAP
    maps = [(line["step"], line[key]) for line in lines if key in line]
    stop = EarlyStop(settings.patience, maps)
    if start >= settings.max_steps or stop.is_over:
        log.close()
        return
    if is_first:
        where = f"goes on from step {start}" if start else "begins"
        print(f"{description} {where}; compiling its program may take a minute", flush=True)
    bar = progress.bar(settings.max_steps, "step", description, start, show=is_first)
    is_over = False
    meter = _Meter(log, settings, stepper)
    with log, bar, stepper, Boundaries(start, settings.checkpoint_minutes) as boundaries:
        for step in range(start + 1, settings.max_steps + 1):
            state, values = stepper.run(state, step - 1, settings.rate(step - 1))
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
                meter.check_open_line(step)
                on_host = _finite_on_host(step, state)
            rank = float(step)
            if validates and validate is not None:
                rank = validate(state.variables)
                log.write(step, {metric_log.VALIDATION_MAP: rank})
                bar.set_postfix(mAP=f"{rank:.4f}", best=f"{max(rank, stop.best):.4f}")
                is_over = stop.update(step, rank)
            if saves:
                log.flush()  # before the step counts as made
            if saves:
                checkpoints.save(step, on_host, rank if validates else None)
                boundaries.note_saved()
                meter.restart_clock()
            if asked.stop:
                raise Preempted(f"{description}, step {step} is saved")
            if is_over:
                break


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

    def __init__(self, log: metric_log.MetricLog, settings: TrainSettings, stepper: Stepper):
        self.log, self.settings, self.stepper = log, settings, stepper
        self.values: list[Values] = []  # of each step since the last line
        self.pending: tuple[int, list[Values], dict[str, float]] | None = None
        self.timed_steps = -1  # none yet: the first call compiles

    def add(self, values: Values) -> None:
        """Takes what a step gave."""
        self.values.append(values)
        if self.timed_steps < 0:
            self.restart_clock()
        else:
            self.timed_steps += 1

    def restart_clock(self) -> None:
        """Leaves the time since the last line out, which was spent on something else."""
        self.timed_steps = 0
        self.since, self.waited = time.perf_counter(), self.stepper.input_seconds

    def end_line(self, step: int, wait: bool) -> None:
        """Ends a line of the log at `step`; wait: until it is written. UserError if not finite."""
        self._write()
        if wait:
            jax.block_until_ready(self.values)
        self.pending, self.values = (step, self.values, self._speed()), []
        self.restart_clock()
        if wait:
            self._write()

    def check_open_line(self, step: int) -> None:
        """Writes the line that is due. UserError where the next one would not be finite."""
        self._write()
        for values in self.values:
            self._check(step, 1, jax.tree.map(float, values))

    def _speed(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.since
        if not self.timed_steps or not seconds:
            return {}
        waited = self.stepper.input_seconds - self.waited
        segments = self.timed_steps * self.settings.batch_size
        return {
            metric_log.SEGMENTS_PER_SECOND: round(segments / seconds, 1),
            metric_log.INPUT_WAIT: round(min(waited / seconds, 1.0), 3),
        }

    def _write(self) -> None:
        """Waits for the pending values and logs their means."""
        if self.pending is None:
            return
        step, of_steps, speed = self.pending
        self.pending = None
        means = {
            name: float(np.mean([float(values[name]) for values in of_steps]))
            for name in of_steps[0]
        }
        self._check(step, len(of_steps), means)
        rate = self.settings.rate(step - 1)
        self.log.write(step, means | {metric_log.LEARNING_RATE: rate} | speed)

    @staticmethod
    def _check(step: int, count: int, means: dict[str, float]) -> None:
        if not all(map(math.isfinite, means.values())):
            raise UserError(
                f"the loss is not finite at step {step}, or in the {count} steps up to it: "
                f"{means}. {_NOT_FINITE}"
            )
