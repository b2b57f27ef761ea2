"""Steps are made in order, each on its batch, and the input is closed whatever happens."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest

from psl_jax.networks.architecture import Variables
from psl_jax.runtime import parallel
from psl_jax.training.loop import Stepper
from psl_jax.training.step import TrainState

STEPS, BATCH = 12, 2
AUDIO = np.random.default_rng(0).random((STEPS, BATCH)).astype(np.float32)


def make_step(state, batch, rate):
    """A step whose weight tells all batches and rates so far, and their order."""
    loss = jnp.sum(batch["audio"] * batch["labels"])
    weight = state.variables.params["w"] * np.float32(0.5) + loss * np.float32(rate)
    return TrainState(state.step + 1, Variables({"w": weight}, {}), ()), {"loss": loss}


def start(step=0):
    return TrainState(np.int32(step), Variables({"w": jnp.float32(1)}, {}), ())


class Fed:
    """A stepper that notes from which steps it was fed; the feed fails after the batch `end`."""

    def __init__(self, end=STEPS):
        self.fed, self.end = [], end
        self.stepper = Stepper(make_step, self.feed, parallel.data_mesh(1))

    def feed(self, first):
        self.fed.append(first)
        ones = np.ones(BATCH, np.float32)
        for audio in AUDIO[first : self.end]:
            clip = ones.astype(np.int32)  # not for the program
            yield {"audio": audio, "num_samples": clip, "labels": ones, "clip": clip}
        raise OSError("the disk was taken away")


@pytest.mark.parametrize("first", [0, 4])
def test_each_step_has_its_batch_and_its_rate(first):
    made, state, weight = Fed(), start(first), np.float32(1)
    with made.stepper as stepper:
        assert made.fed == []  # nothing is read before the first step
        for step in range(first, first + 7):
            state, values = stepper.run(state, step, 0.1 / (1 + step))
            loss = AUDIO[step].sum(dtype=np.float32)
            weight = weight * np.float32(0.5) + loss * np.float32(0.1 / (1 + step))
            assert float(values["loss"]) == pytest.approx(loss, rel=1e-6)
    assert float(state.variables.params["w"]) == pytest.approx(weight, rel=1e-6)
    assert int(state.step) == first + 7 and made.fed == [first]


def test_steps_come_in_order():
    with Fed().stepper as stepper:
        state, _ = stepper.run(start(3), 3, 0.1)
        with pytest.raises(ValueError, match="step 5 is asked for, 4 comes next"):
            stepper.run(state, 5, 0.1)


def prefetching():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_the_input_is_closed_after_an_error_too():
    def interrupted(stepper):
        with stepper:
            stepper.run(start(), 0, 0.1)
            assert prefetching()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(Fed().stepper)
    assert not prefetching()


def test_an_error_of_the_feed_is_raised_by_the_step_it_belongs_to():
    with Fed(end=2).stepper as stepper:
        state = start()
        for step in range(2):
            state, _ = stepper.run(state, step, 0.1)
        with pytest.raises(OSError, match="taken away"):
            stepper.run(state, 2, 0.1)
