"""How training steps are made: what the loop knows of them, and the two ways.

Streamed, each step gets its batch, audio and all. Resident, the split lies in the devices' memory,
and several steps are made at once.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import jax
import numpy as np
from jax.sharding import Mesh

from psl_jax.data import batches
from psl_jax.data.batches import Batch
from psl_jax.runtime import parallel
from psl_jax.training.resident import ResidentSplit
from psl_jax.training.step import TrainState

Feed = Callable[[int], Iterator[Batch]]  # this process's batches or entries from a step on
Values = dict[str, jax.Array]  # what steps tell, such as their mean loss

_INPUTS = ("audio", "features", "num_samples", "labels")


class Stepper(Protocol):
    """Makes training steps one after the other; owns their input and closes it in the end.

    Nothing is read before the first step is asked for.
    """

    @property
    def at_once(self) -> int:
        """Steps that the devices are given at a time; more in one `run` are made in turns."""
        ...

    @property
    def input_seconds(self) -> float:
        """How long it has waited for its input so far."""
        ...

    def run(
        self, state: TrainState, first: int, rates: Sequence[float]
    ) -> tuple[TrainState, Values]:
        """Makes a step at each of `rates`, the learning rates, after `first` finished ones.

        The old state is donated. Returns the new one and the means of the steps' values, which the
        devices may still be computing. Raises ValueError where `first` does not go on from the last
        call.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class StreamedStepper:
    """Steps on batches that are put on the devices while the step before is made."""

    at_once = 1

    def __init__(self, program: Callable, feed: Feed, mesh: Mesh):
        """program: a `step.train_program`; feed: of `batches.train_batches`."""
        self._program = program
        self._input = _Input(feed, lambda batch: parallel.put_batch(_used(batch), mesh))

    def run(
        self, state: TrainState, first: int, rates: Sequence[float]
    ) -> tuple[TrainState, Values]:
        """See `Stepper.run`."""
        parts: list[tuple[int, Values]] = []
        for step, rate in enumerate(rates, first):
            state, values = self._program(state, self._input.take(step), rate)
            parts.append((1, values))
        return state, _mean(parts)

    @property
    def input_seconds(self) -> float:
        """See `Stepper.input_seconds`."""
        return self._input.waited

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._input.close()


class ResidentStepper:
    """Steps on a split that is held on the devices, which are told only what a batch is made of.

    The split is loaded at the first step, and let go of in the end.
    """

    def __init__(
        self,
        program: Callable,
        load: Callable[[], ResidentSplit],
        feed: Feed,
        mesh: Mesh,
        at_once: int,
    ):
        """program: a `resident.resident_program`; feed: of `batches.train_entries`."""
        self.at_once = at_once
        self._program, self._load, self._mesh = program, load, mesh
        self._split: ResidentSplit | None = None
        # The entries of two dispatches are made ahead; they are small.
        self._input = _Input(feed, lambda entries: entries, 2 * at_once)

    def run(
        self, state: TrainState, first: int, rates: Sequence[float]
    ) -> tuple[TrainState, Values]:
        """See `Stepper.run`."""
        parts: list[tuple[int, Values]] = []
        for start in range(0, len(rates), self.at_once):
            part = rates[start : start + self.at_once]
            state, values = self._dispatch(state, first + start, part)
            parts.append((len(part), values))
        return state, _mean(parts)

    @property
    def input_seconds(self) -> float:
        """See `Stepper.input_seconds`."""
        return self._input.waited

    def _dispatch(
        self, state: TrainState, first: int, rates: Sequence[float]
    ) -> tuple[TrainState, Values]:
        count = len(rates)
        entries = [self._input.take(first + i) for i in range(count)]
        if self._split is None:
            self._split = self._load()
        # Always of one size, or each count would need a program of its own.
        steps = parallel.put_steps(batches.stacked(entries, self.at_once), self._mesh)
        padded = np.zeros(self.at_once, np.float32)
        padded[:count] = rates
        return self._program(self._split, state, steps, padded, np.int32(count))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._input.close()
        self._split = None


class _Input:
    """What a feed gives, made ready by a thread; opened when the first is taken."""

    def __init__(self, feed: Feed, prepare: Callable[[Batch], Any], depth: int = 2):
        self._feed, self._prepare, self._depth = feed, prepare, depth
        self._items: Any = None  # a generator
        self._next = 0
        self.waited = 0.0  # seconds

    def take(self, step: int) -> Any:
        """What belongs to the step after `step` finished ones."""
        start = time.perf_counter()
        if self._items is None:
            self._items = parallel.prefetch(self._feed(step), self._prepare, self._depth)
        elif step != self._next:
            raise ValueError(f"step {step} is asked for, {self._next} comes next")
        self._next = step + 1
        item = next(self._items)
        self.waited += time.perf_counter() - start
        return item

    def close(self) -> None:
        """Ends the thread."""
        if self._items is not None:
            self._items.close()


def _mean(parts: list[tuple[int, Values]]) -> Values:
    """Mean over steps, of means over some of them each."""
    if len(parts) == 1:
        return parts[0][1]
    steps = sum(count for count, _ in parts)
    return jax.tree.map(
        lambda *values: sum(n * v for (n, _), v in zip(parts, values, strict=True)) / steps,
        *(values for _, values in parts),
    )


def _used(batch: Batch) -> Batch:
    return {name: batch[name] for name in _INPUTS if name in batch}
