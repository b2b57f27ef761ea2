"""Training on data in the devices' memory is training on streamed batches."""

import functools
import itertools
import types

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import MemorySource, indices, make_index, segmentations, write_soft_labels

from psl_jax.audio.segments import Segmentation
from psl_jax.data.batches import ENTRIES, stacked, train_batches, train_entries
from psl_jax.data.sampling import SAMPLINGS
from psl_jax.data.time_shift import TimeShift
from psl_jax.model.mobilenetv2 import create
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.training import loop, resident
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.loop import LoopSettings, Schedule
from psl_jax.training.step import Recipe, init_state, train_program
from psl_jax.training.stepper import ResidentStepper, StreamedStepper

SECOND = Segmentation(1.0)


@given(
    index=indices(),
    segmentation=segmentations,
    sampling=st.sampled_from(SAMPLINGS),
    batch_size=st.integers(1, 9),
    start_step=st.integers(0, 12),
    process=st.sampled_from([(0, 1), (1, 3)]),
)
def test_entries_are_those_of_the_batches(
    index, segmentation, sampling, batch_size, start_step, process
):
    settings = {
        "batch_size": batch_size,
        "start_step": start_step,
        "seed": 3,
        "sampling": sampling,
        "window_clips": 7,
        "process_index": process[0],
        "process_count": process[1],
    }
    streamed = train_batches(MemorySource(index), segmentation, **settings)
    entries = train_entries(index, segmentation, **settings)
    for batch, found in itertools.islice(zip(streamed, entries, strict=True), 6):
        assert tuple(found) == ENTRIES
        assert not found["shift"].any()
        for name in ("clip", "segment", "num_samples"):
            np.testing.assert_array_equal(found[name], batch[name])


def test_groups_are_stacked_and_filled_up():
    ones = ({name: np.full(2, i, np.int32) for name in ENTRIES} for i in range(1, 9))
    groups = [stacked(list(itertools.islice(ones, count)), 3) for count in (3, 1, 2)]
    expected = [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert [group["clip"].tolist() for group in groups] == [
        [[i, i] for i in row] for row in expected
    ]


@pytest.mark.parametrize(
    "segmentation", [SECOND, Segmentation(0.5, 0.2), Segmentation(0.7), Segmentation(3.0)]
)
@pytest.mark.parametrize(
    ("alpha", "shift"), [(None, None), (None, TimeShift(0.7, 0.5, 3)), (1.0, None), (0.25, None)]
)
def test_batches_are_cut_from_the_split_as_from_the_stream(tmp_path, segmentation, alpha, shift):
    index = make_index([4, 3, 2], [40_000, 20_000, 17_111] * 3, [[0], [1, 2], []] * 3)
    source, mesh = MemorySource(index), parallel.data_mesh(1)
    soft = None if alpha is None else write_soft_labels(tmp_path, index, segmentation)
    split = resident.load(source, segmentation, soft, mesh)
    settings = {"batch_size": 5, "seed": 0, "shift": shift}
    labels = {"soft_labels": soft, "alpha": 1.0 if alpha is None else alpha}
    streamed = train_batches(source, segmentation, **settings, **labels)
    how = segmentation, labels["alpha"], shift is not None
    cut = jax.jit(lambda split, one: resident._batch(split, one, *how))
    entries = train_entries(index, segmentation, **settings)
    for batch, one in itertools.islice(zip(streamed, entries, strict=True), 8):
        found = cut(split, one)
        np.testing.assert_array_equal(found["audio"], batch["audio"])
        np.testing.assert_array_equal(found["num_samples"], batch["num_samples"])
        atol = 0 if alpha in (None, 1.0) else 1e-6
        np.testing.assert_allclose(found["labels"], batch["labels"], rtol=0, atol=atol)


def test_too_large_a_split_is_refused_with_its_size():
    devices = [types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 100_000})]
    mesh = types.SimpleNamespace(local_devices=devices)
    index = make_index([4], 20_000)
    with pytest.raises(UserError, match=r"takes 0.0 GB .*train.resident=false"):
        resident.load(MemorySource(index), SECOND, None, mesh)


def test_calls_end_where_the_loop_has_something_to_do():
    settings = LoopSettings(
        max_steps=23, validate_every=10, checkpoint_every=7, log_every=5, patience=0
    )
    for start, most in ((0, 4), (3, 100), (22, 4), (23, 4)):
        calls = list(loop._calls(start, settings, most))
        ends = [first + count for first, count in calls]
        assert [first for first, _ in calls] == [start, *ends[:-1]][: len(calls)]
        assert all(0 < count <= most for _, count in calls)
        events = {s for s in range(start + 1, 24) if s % 10 == 0 or s % 7 == 0 or s % 5 == 0}
        assert events <= set(ends) and (not ends or ends[-1] == 23)


def starting_at(make, *arguments, **settings):
    return lambda step: make(*arguments, start_step=step, **settings)


@pytest.fixture
def trained(shallow):
    """A network, and what makes steppers for it on the same clips: None streamed, else resident."""
    network, variables = create(3, 0.1, dropout=0.2)
    index = make_index([6, 5], [40_000, 16_000] * 5 + [30_000])
    source, mesh = MemorySource(index), parallel.data_mesh(1)
    order = {"batch_size": 4, "seed": 0}

    def stepper(at_once):
        if at_once is None:
            program = train_program(network, Recipe(), mesh)
            feed = starting_at(train_batches, source, SECOND, **order)
            return StreamedStepper(program, feed, mesh)
        program = resident.resident_program(network, Recipe(), SECOND, 1.0, mesh)
        load = functools.partial(resident.load, source, SECOND, None, mesh)
        feed = starting_at(train_entries, index, SECOND, **order)
        return ResidentStepper(program, load, feed, mesh, at_once)

    return types.SimpleNamespace(variables=variables, mesh=mesh, stepper=stepper)


@pytest.fixture
def experiment(trained, tmp_path):
    """Trains on the same clips, streamed or resident; returns the weights and the log."""
    variables, mesh = trained.variables, trained.mesh

    def run(name, at_once, max_steps=7):
        settings = LoopSettings(max_steps, 5, 100, 2, 0)
        folder = tmp_path / name
        with TrainingCheckpoints(folder / "checkpoints") as kept:
            loop.train(
                trained.stepper(at_once),
                init_state(variables),
                mesh=mesh,
                schedule=Schedule(1e-3, 10),
                settings=settings,
                validate=lambda variables: 0.5,
                checkpoints=kept,
                run_dir=str(folder),
                description="test",
            )
        with TrainingCheckpoints(folder / "checkpoints") as kept:
            state = kept.restore(parallel.replicate(init_state(variables), mesh))
        lines = [line for line in loop.metric_log.read_log(str(folder)) if "loss" in line]
        return state, {line["step"]: line["loss"] for line in lines}

    return run


def test_a_run_on_resident_data_is_the_streamed_run(experiment):
    _, losses = experiment("streamed", None)
    for name, at_once in (("one", 1), ("three", 3)):
        state, found = experiment(name, at_once)
        assert int(state.step) == 7
        assert found.keys() == losses.keys() == {2, 4, 5, 6, 7}
        # In float32 two programs part where rounding carries an activation over a corner of ReLU6;
        # that the weights are the same is compared in float64, in tests/runtime/test_parallel.py.
        np.testing.assert_allclose(list(found.values()), list(losses.values()), rtol=1e-3)


def test_a_resumed_run_on_resident_data_goes_on_as_if_undisturbed(experiment):
    whole, _ = experiment("whole", 3)
    experiment("cut", 3, max_steps=5)
    state, losses = experiment("cut", 3)
    assert set(losses) == {2, 4, 5, 6, 7}
    jax.tree.map(np.testing.assert_array_equal, state.variables.params, whole.variables.params)


@pytest.mark.parametrize("at_once", [None, 3])
def test_steps_shared_out_differently_are_the_same_to_the_bit(trained, at_once):
    results = []
    for counts in ([5], [1, 3, 1], [2, 3]):
        state = parallel.replicate(init_state(trained.variables), trained.mesh)
        first = 0
        with trained.stepper(at_once) as stepper:
            for count in counts:
                state, _ = stepper.run(state, first, [1e-3] * count)
                first += count
        results.append(jax.device_get(state))
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, results[0])
