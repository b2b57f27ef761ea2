"""Streamed or resident, and however the steps are shared out over calls: the same steps."""

import itertools
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from psl_jax.data.batches import ENTRIES
from psl_jax.model.mobilenetv2 import Variables
from psl_jax.runtime import parallel
from psl_jax.training.step import TrainState
from psl_jax.training.stepper import ResidentStepper, StreamedStepper

STEPS, CLIPS, BATCH = 12, 5, 2
CLIP_OF_STEP = np.random.default_rng(0).integers(0, CLIPS, (STEPS, BATCH)).astype(np.int32)
LOUDNESS = np.linspace(1, 3, CLIPS, dtype=np.float32)  # all that there is to a clip


def rate(step):
    return 0.1 / (1 + step)


def make_step(state, batch, learning_rate):
    """A step whose weight tells all batches and rates so far, and their order."""
    loss = jnp.sum(batch["audio"] * batch["labels"])
    weight = state.variables.params["w"] * np.float32(0.5) + loss * np.float32(learning_rate)
    return TrainState(state.step + 1, Variables({"w": weight}, {}), ()), {"loss": loss}


def start(step=0):
    return TrainState(np.int32(step), Variables({"w": jnp.float32(1)}, {}), ())


class Streamed:
    """A streamed stepper that notes from which steps it was fed."""

    def __init__(self, at_once):
        del at_once
        self.fed, self.mesh = [], parallel.data_mesh(1)
        self.stepper = StreamedStepper(make_step, self.feed, self.mesh)

    def feed(self, first):
        self.fed.append(first)
        for clips in CLIP_OF_STEP[first:]:
            ones = np.ones(BATCH, np.float32)
            yield {
                "audio": LOUDNESS[clips],
                "num_samples": ones.astype(np.int32),
                "labels": ones,
                "clip": clips,  # not for the program
            }


class Resident:
    """The same of a resident one, and how often and with what the program was called."""

    def __init__(self, at_once):
        self.fed, self.loads, self.counts, self.at_once = [], 0, [], at_once
        self.mesh = parallel.data_mesh(1)
        self.stepper = ResidentStepper(self.program, self.load, self.feed, self.mesh, at_once)

    def load(self):
        self.loads += 1
        return LOUDNESS

    def feed(self, first):
        self.fed.append(first)
        for clips in CLIP_OF_STEP[first:]:
            yield dict.fromkeys(ENTRIES, clips)

    def program(self, split, state, steps, rates, count):
        assert {value.shape for value in steps.values()} == {(self.at_once, BATCH)}
        assert rates.shape == (self.at_once,) and rates.dtype == np.float32
        self.counts.append(int(count))
        losses = []
        for i in range(count):
            audio = split[np.asarray(steps["clip"][i])]
            batch = {"audio": audio, "labels": np.ones(BATCH, np.float32)}
            state, values = make_step(state, batch, rates[i])
            losses.append(values["loss"])
        return state, {"loss": sum(losses) / len(losses)}


KINDS = pytest.mark.parametrize("kind", [Streamed, Resident])


def run(made, first, counts):
    """The weight after calls of `counts` steps from step `first` on, and the mean loss of each."""
    state, losses = start(first), []
    with made.stepper as stepper:
        for count in counts:
            rates = [rate(step) for step in range(first, first + count)]
            state, values = stepper.run(state, first, rates)
            first += count
            assert int(state.step) == first
            losses.append(float(values["loss"]))
    return float(state.variables.params["w"]), losses


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_the_same_steps_however_they_are_shared_out(first, at_once):
    state, losses = start(first), []
    for step in range(first, first + 7):
        batch = {"audio": LOUDNESS[CLIP_OF_STEP[step]], "labels": np.ones(BATCH, np.float32)}
        state, values = make_step(state, batch, rate(step))
        losses.append(float(values["loss"]))
    expected = float(state.variables.params["w"])
    for kind, counts in itertools.product(
        (Streamed, Resident), ([7], [1] * 7, [2, 5], [4, 3], [3, 3, 1])
    ):
        made = kind(at_once)
        weight, means = run(made, first, counts)
        assert weight == expected, (kind, counts)
        parts = np.split(np.array(losses), np.cumsum(counts)[:-1])
        assert means == pytest.approx([part.mean() for part in parts], rel=1e-6), (kind, counts)
        assert made.fed == [first]


def test_no_more_than_so_many_resident_steps_are_dispatched_at_once():
    made = Resident(3)
    run(made, 0, [1, 3, 7])
    assert made.counts == [1, 3, 3, 3, 1] and made.loads == 1
    assert made.stepper.at_once == 3 and Streamed(1).stepper.at_once == 1


@KINDS
def test_nothing_is_read_before_the_first_step(kind):
    made = kind(2)
    with made.stepper:
        assert made.fed == []
    if kind is Resident:
        assert made.loads == 0


@KINDS
def test_steps_come_in_order(kind):
    made = kind(2)
    with made.stepper as stepper:
        state, _ = stepper.run(start(3), 3, [0.1])
        with pytest.raises(ValueError, match="step 5 is asked for, 4 comes next"):
            stepper.run(state, 5, [0.1])


def prefetching():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@KINDS
def test_the_input_is_closed_in_the_end(kind):
    made = kind(1)
    with made.stepper as stepper:
        stepper.run(start(), 0, [0.1, 0.1])
        assert prefetching()
    assert not prefetching()


@KINDS
def test_the_input_is_closed_after_an_error_too(kind):
    def interrupted(stepper):
        with stepper:
            stepper.run(start(), 0, [0.1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(kind(1).stepper)
    assert not prefetching()


@KINDS
def test_an_error_of_the_feed_is_raised_by_the_step_it_belongs_to(kind):
    class Broken(kind):
        def feed(self, first):
            yield from itertools.islice(super().feed(first), 2)
            raise OSError("the disk was taken away")

    with Broken(2).stepper as stepper:
        state, _ = stepper.run(start(), 0, [0.1, 0.1])
        with pytest.raises(OSError, match="taken away"):
            stepper.run(state, 2, [0.1])
