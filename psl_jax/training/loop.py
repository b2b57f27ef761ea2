"""The loop around the training step: when to log, validate, save and stop."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator

import jax
from jax.sharding import Mesh

from psl_jax.model.mobilenetv2 import Variables
from psl_jax.runtime import parallel, progress
from psl_jax.runtime.errors import UserError
from psl_jax.training import metric_log
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.step import TrainState
from psl_jax.training.stepper import Stepper


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rate: constant, or with decay_steps > 0 falling to 0 as (1 - step / steps)^power."""

    learning_rate: float = 1e-4
    decay_steps: int = 0
    decay_power: float = 2.0

    def __call__(self, step: int) -> float:
        """The rate of the step after `step` finished ones."""
        if not self.decay_steps:
            return self.learning_rate
        left = max(0.0, 1 - step / self.decay_steps)
        return self.learning_rate * left**self.decay_power


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """When the loop does what, in steps. patience: without a better mAP (0: never stop early)."""

    max_steps: int
    validate_every: int
    checkpoint_every: int
    log_every: int
    patience: int


class EarlyStop:
    """Tells when the mAP has not become better for `patience` steps.

    Before the first validation the mAP counts as better at step 0.
    """

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


def train(
    stepper: Stepper,
    state: TrainState,
    *,
    mesh: Mesh,
    schedule: Schedule,
    settings: LoopSettings,
    validate: Callable[[Variables], float],
    checkpoints: TrainingCheckpoints,
    run_dir: str,
    description: str,
) -> None:
    """Trains from the latest checkpoint (or `state`) until `max_steps` or the early stop.

    A killed run that is called again, with a new stepper, continues with the same batches, and
    gives what an undisturbed one would have given. The stepper is closed in the end.

    Raises UserError when the loss is not finite; the checkpoints before that are kept.
    """
    state = checkpoints.restore(parallel.replicate(state, mesh))
    start = int(state.step)
    log = metric_log.MetricLog(run_dir, start, active=jax.process_index() == 0)
    stop = _early_stop(run_dir, start, settings.patience)
    if start >= settings.max_steps or stop.is_over:
        log.close()
        return
    bar = progress.bar(
        settings.max_steps, "step", description, start, show=jax.process_index() == 0
    )
    meter = _Meter(log, schedule)
    with log, bar, stepper:
        for first, count in _calls(start, settings, stepper.at_once):
            step = first + count
            state, values = stepper.run(state, first, [schedule(i) for i in range(first, step)])
            bar.update(count)
            at_end = step == settings.max_steps
            if step % settings.log_every == 0 or at_end:
                meter.put(step, values)
            if step % settings.validate_every == 0 or at_end:
                meter.flush()
                _check_finite(step, values)
                value = validate(state.variables)
                log.write(step, {metric_log.VALIDATION_MAP: value})
                bar.set_postfix(mAP=f"{value:.4f}", best=f"{max(value, stop.best):.4f}")
                checkpoints.save(step, state, value)
                if stop.update(step, value):
                    break
            elif step % settings.checkpoint_every == 0:
                meter.flush()
                _check_finite(step, values)
                checkpoints.save(step, state)
        meter.flush()


def _early_stop(run_dir: str, start: int, patience: int) -> EarlyStop:
    """What a run that goes on after step `start` knows of its validations."""
    # Other processes may read the log before the first one has cut off what came after `start`.
    lines = [line for line in metric_log.read_log(run_dir) if line["step"] <= start]
    key = metric_log.VALIDATION_MAP
    return EarlyStop(patience, [(line["step"], line[key]) for line in lines if key in line])


def _calls(start: int, settings: LoopSettings, most: int) -> Iterator[tuple[int, int]]:
    """Steps before each call of the stepper, and steps that it makes: at most `most`.

    A call ends where the loop has something to do.
    """
    intervals = settings.log_every, settings.validate_every, settings.checkpoint_every
    while start < settings.max_steps:
        ends = [(start // interval + 1) * interval for interval in intervals]
        count = min(*ends, settings.max_steps, start + most) - start
        yield start, count
        start += count


class _Meter:
    """Logs the values of a step when the next ones come, so that dispatch stays asynchronous."""

    def __init__(self, log: metric_log.MetricLog, schedule: Schedule):
        self.log, self.schedule = log, schedule
        self.pending: tuple[int, dict] | None = None

    def put(self, step: int, values: dict) -> None:
        self.flush()
        self.pending = step, values

    def flush(self) -> None:
        """Waits for the pending values and logs them."""
        if self.pending is None:
            return
        step, values = self.pending
        self.pending = None
        numbers = _check_finite(step, values)
        rate = self.schedule(step - 1)
        self.log.write(step, numbers | {metric_log.LEARNING_RATE: rate})


def _check_finite(step: int, values: dict) -> dict[str, float]:
    """The values as numbers, once they are there; before each checkpoint, so that all are good."""
    numbers = {name: float(value) for name, value in values.items()}
    if not all(map(math.isfinite, numbers.values())):
        raise UserError(
            f"the loss is not finite at step {step}: {numbers}. The checkpoints before it are "
            "kept. Try a smaller train.learning_rate, or model.dtype=float32."
        )
    return numbers
