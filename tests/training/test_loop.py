"""The training loop: what it logs, validates and saves, and how it is stopped and goes on."""

import dataclasses
import functools
import math
import os
import signal
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from psl_jax.networks.architecture import Variables
from psl_jax.runtime import interrupts, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.training import loop, metric_log
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.settings import TrainSettings
from psl_jax.training.step import TrainState

SETTINGS = TrainSettings(
    learning_rate=0.1,
    schedule="polynomial",
    max_steps=12,
    validate_every=3,
    checkpoint_every=2,
    checkpoint_minutes=0.0,
    log_every=1,
    patience=0,
)


def test_schedules():
    constant = TrainSettings(learning_rate=0.1)
    assert [constant.rate(step) for step in (0, 10**6)] == [0.1, 0.1]
    decay = dataclasses.replace(constant, schedule="polynomial", max_steps=10).rate
    np.testing.assert_allclose([decay(s) for s in (0, 5, 9, 10, 11)], [0.1, 0.025, 0.001, 0, 0])


# --- the loop, around a step that only counts -------------------------------------------------


def counting_program(state, batch, rate):
    """A step whose loss tells which batch it got; its weight remembers all batches in order."""
    loss = jnp.float32(batch["audio"][0, 0])
    weight = 0.5 * state.variables.params["w"] + loss * rate
    return TrainState(state.step + 1, Variables({"w": weight}, {}), ()), {metric_log.LOSS: loss}


def before_step(number, do):
    """The same, but calls `do` before that step."""

    def program(state, batch, rate):
        if int(state.step) + 1 == number:
            do()
        return counting_program(state, batch, rate)

    return program


def die():
    raise KeyboardInterrupt


START = TrainState(jnp.int32(0), Variables({"w": jnp.zeros(1)}, {}), ())


class Loop:
    """Runs `train` in a folder, as often as wanted; notes what it did."""

    def __init__(self, folder, maps=None, losses=None):
        self.folder = folder
        self.maps = maps or {}  # by step
        self.losses = losses or {}
        self.fed, self.validated = [], []

    def feed(self, start):
        self.fed.append(start)
        for step in range(start + 1, 1000):
            value = self.losses.get(step, step)
            yield {
                "audio": np.full((1, 1), value, np.float32),
                "num_samples": np.ones(1, np.int32),
                "labels": np.zeros((1, 1), np.float32),
                "clip": np.zeros(1, np.int32),  # not for the program
            }

    def run(self, program=counting_program, settings=SETTINGS):
        def validate(variables):
            del variables
            self.validated.append(step_of[0])
            return self.maps.get(step_of[0], step_of[0] / 100)

        step_of = [0]

        def noting(state, batch, rate):
            step_of[0] = int(state.step) + 1
            return program(state, batch, rate)

        with TrainingCheckpoints(self.folder / "checkpoints") as kept:
            loop.train(
                START,
                program=noting,
                feed=self.feed,
                mesh=parallel.data_mesh(),
                settings=settings,
                validate=validate,
                checkpoints=kept,
                run_dir=str(self.folder),
                description="test",
            )

    def steps(self):
        with TrainingCheckpoints(self.folder / "checkpoints") as kept:
            return kept.steps(), kept.best_steps()

    def weight(self):
        with TrainingCheckpoints(self.folder / "checkpoints") as kept:
            restored = kept.restore(parallel.replicate(START, parallel.data_mesh()))
        return float(restored.variables.params["w"][0])

    def log(self):
        timed, lines = (
            ("time", "segments_per_second", "input_wait"),
            metric_log.read_log(self.folder),
        )
        return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def test_the_loop_logs_validates_and_saves_when_it_should(tmp_path):
    looped = Loop(tmp_path)
    looped.run()
    assert looped.fed == [0] and looped.validated == [3, 6, 9, 12]
    assert looped.steps() == ([3, 6, 9, 12], [12, 9, 6, 3])
    expected = []
    for step in range(1, 13):
        rate = SETTINGS.rate(step - 1)
        expected.append({"step": step, "loss": float(step), "learning_rate": rate})
        expected += [{"step": step, "val_mAP": step / 100}] * (step % 3 == 0)
    assert looped.log() == expected


def test_the_logged_loss_is_the_mean_since_the_line_before(tmp_path):
    """The last step is logged and validated whatever the intervals."""
    looped = Loop(tmp_path)
    settings = dataclasses.replace(SETTINGS, validate_every=8, checkpoint_every=6, log_every=5)
    looped.run(settings=settings)
    losses = [(line["step"], line["loss"]) for line in looped.log() if "loss" in line]
    # Of steps 1 to 5, 6, which is saved, 7 and 8, 9 and 10, 11 and 12.
    assert losses == [(5, 3.0), (6, 6.0), (8, 7.5), (10, 9.5), (12, 11.5)]
    assert looped.validated == [8, 12]


def test_the_log_tells_speed_and_waiting(tmp_path):
    looped = Loop(tmp_path)
    quick = looped.feed

    def feed(start):
        for batch in quick(start):
            time.sleep(0.05)
            yield batch

    looped.feed = feed
    intervals = {"validate_every": 12, "checkpoint_every": 100, "log_every": 6}
    looped.run(settings=dataclasses.replace(SETTINGS, **intervals, batch_size=32))
    lines = [line for line in metric_log.read_log(tmp_path) if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        # A batch of 32 comes every 0.05 s, at most 640 segments a second.
        assert 0 < line["segments_per_second"] < 700
        assert 0.5 < line["input_wait"] <= 1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A training with given settings that ran without a stop."""

    @functools.cache
    def run(settings):
        looped = Loop(tmp_path_factory.mktemp("undisturbed"))
        looped.run(settings=settings)
        return looped

    return run


@pytest.mark.parametrize("died_at", [1, 3, 4])  # before all checkpoints, after each kind
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, undisturbed, died_at):
    killed, undisturbed = Loop(tmp_path), undisturbed(SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        killed.run(before_step(died_at, die))
    killed.run()
    # From the last checkpoint: all even steps, and those of the validations.
    assert killed.fed == [0, max(s for s in (0, 2, 3, 4, 6, 8, 9, 10) if s < died_at)]
    assert killed.log() == undisturbed.log()
    assert killed.weight() == undisturbed.weight()
    assert killed.steps() == undisturbed.steps()


@pytest.fixture
def sigterm(monkeypatch):
    """Sends this process SIGTERM, which is answered as in a command."""
    monkeypatch.setattr(interrupts, "_terminated", [])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupts.install_handlers()
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    for number, handler in before.items():
        signal.signal(number, handler)


SELDOM = dataclasses.replace(SETTINGS, validate_every=8, checkpoint_every=100, log_every=5)


@pytest.mark.parametrize("step", [1, 8, 11, 12])
def test_a_training_that_is_told_to_end_saves_and_goes_on_from_there(
    tmp_path, undisturbed, sigterm, step, capsys
):
    told, undisturbed = Loop(tmp_path), undisturbed(SELDOM)
    with pytest.raises(interrupts.Preempted, match=f"step {step} is saved"):
        told.run(before_step(step, sigterm), settings=SELDOM)
    assert max(told.steps()[0]) == step
    interrupts._terminated.clear()
    before = list(told.validated)
    told.run(settings=SELDOM)
    assert (told.validated == before) == (step == 12)  # it is not begun again
    assert (f"test goes on from step {step};" in capsys.readouterr().out) == (step < 12)
    assert told.fed == ([0, step] if step < 12 else [0])
    # A line of the log that was begun before has the mean of the steps behind it alone.
    lines = zip(told.log(), undisturbed.log(), strict=True)
    differing = [(ours["step"], ours["loss"]) for ours, theirs in lines if ours != theirs]
    assert differing == {1: [(5, 3.5)], 11: [(12, 12.0)]}.get(step, [])
    assert told.weight() == undisturbed.weight()
    assert told.steps()[1] == undisturbed.steps()[1]


@pytest.mark.parametrize(("minutes", "kept"), [(0.0, 8), (1e-9, 10), (60.0, 8)])
def test_checkpoints_by_the_clock(tmp_path, minutes, kept):
    looped = Loop(tmp_path)
    settings = dataclasses.replace(SELDOM, checkpoint_minutes=minutes)
    with pytest.raises(KeyboardInterrupt):
        looped.run(before_step(11, die), settings)
    assert max(looped.steps()[0]) == kept


MAPS = {3: 0.2, 6: 0.5, 9: 0.4, 12: 0.5, 15: 0.3, 18: 0.9}
PATIENT = dataclasses.replace(SETTINGS, max_steps=60, patience=9)


def test_training_stops_early_and_keeps_the_best(tmp_path):
    looped = Loop(tmp_path, MAPS)
    looped.run(settings=PATIENT)
    assert looped.validated == [3, 6, 9, 12, 15]  # nine steps that were not better than 0.5
    assert looped.steps() == ([6, 9, 12, 15], [12, 6, 9, 15])
    looped.run(settings=PATIENT)
    assert looped.fed == [0]


def test_early_stop_counts_over_a_restart(tmp_path):
    looped = Loop(tmp_path, MAPS)
    looped.run(settings=dataclasses.replace(PATIENT, max_steps=12))
    looped.run(settings=PATIENT)
    assert looped.fed == [0, 12] and looped.validated[-1] == 15


@pytest.mark.parametrize(("log_every", "bad_step", "kept"), [(1, 5, 4), (50, 6, 4), (50, 7, 6)])
def test_a_loss_that_is_not_finite_ends_training_before_it_is_saved(
    tmp_path, log_every, bad_step, kept
):
    looped = Loop(tmp_path, losses=dict.fromkeys(range(bad_step, 1000), np.nan))
    with pytest.raises(UserError, match=r"not finite at step .*smaller train.learning_rate"):
        looped.run(settings=dataclasses.replace(SETTINGS, log_every=log_every))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    assert max(looped.steps()[0]) == kept
    assert math.isfinite(looped.weight())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """The gradient may overflow where the loss did not."""

    def overflowing(state, batch, rate):
        state, values = counting_program(state, batch, rate)
        if int(state.step) < 7:
            return state, values
        return state._replace(variables=Variables({"w": jnp.full(1, np.inf)}, {})), values

    looped = Loop(tmp_path)
    with pytest.raises(UserError, match=r"after step 8 1 arrays .*\['w'\].*learning_rate"):
        looped.run(overflowing)
    assert looped.validated == [3, 6]
    assert max(looped.steps()[0]) == 6 and math.isfinite(looped.weight())
