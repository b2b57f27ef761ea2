"""Makes training steps, one after the other; the next batch is read while a step runs."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
from jax.sharding import Mesh

from psl_jax.data.segment_loader import Batch
from psl_jax.runtime import parallel
from psl_jax.training.step import TrainState

Feed = Callable[[int], Iterator[Batch]]  # this process's batches from a step on
Values = dict[str, jax.Array]  # what a step tells, such as its loss

_INPUTS = ("audio", "features", "num_samples", "labels")


class Stepper:
    """Steps on batches that a thread puts on the devices; owns its input, closes it in the end.

    Nothing is read before the first step is asked for.

    Attributes:
      input_seconds: how long it has waited for its input so far.
    """

    def __init__(self, program: Callable, feed: Feed, mesh: Mesh):
        """program: a `step.train_program`; feed: of `batches.train_batches`."""
        self._program, self._feed, self._mesh = program, feed, mesh
        self._batches: Any = None  # a generator
        self._next = 0
        self.input_seconds = 0.0

    def run(self, state: TrainState, step: int, rate: float) -> tuple[TrainState, Values]:
        """Makes a step at the learning rate `rate`, after `step` finished ones.

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
        return self._program(state, batch, rate)

    def _put(self, batch: Batch) -> dict[str, jax.Array]:
        return parallel.put_batch(_used(batch), self._mesh)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._batches is not None:
            self._batches.close()


def _used(batch: Batch) -> Batch:
    return {name: batch[name] for name in _INPUTS if name in batch}
