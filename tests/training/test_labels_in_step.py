"""What is trained on: weak labels, soft labels, both, and a teacher inside the training step."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import small_experiments
from small_experiments import last_variables, run, settings

from psl_jax import UserError
from psl_jax.commands import relabel
from psl_jax.data import batches
from psl_jax.data.segment_loader import Segments
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.training_order import TrainingOrder
from psl_jax.experiments.experiment import Experiment
from psl_jax.experiments.run_folder import OtherRunError
from psl_jax.experiments.training_steps import make_recipe
from psl_jax.runtime import files, parallel
from psl_jax.training.metric_log import read_log
from psl_jax.training.step import init_state, train_program

pytestmark = pytest.mark.usefixtures("empty_figures")


@pytest.fixture
def teacher(tmp_path):
    return str(small_experiments.save_model(tmp_path / "teacher", seed=3))


def assert_same_bits(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def losses(folder):
    return [line["loss"] for line in read_log(folder) if "loss" in line]


# --- alpha at its ends ---------------------------------------------------------------------------


def test_alpha_0_is_the_weak_path_to_the_bit(data, tmp_path, teacher):
    run(settings(data), tmp_path / "weak")
    run(settings(data, labels="soft", teacher=teacher, alpha=0.0), tmp_path / "soft")
    assert_same_bits(last_variables(tmp_path / "soft"), last_variables(tmp_path / "weak"))
    assert losses(tmp_path / "soft") == losses(tmp_path / "weak")


def test_alpha_1_is_training_on_the_soft_labels_to_the_bit(data, tmp_path, teacher):
    """Against steps on batches of weak labels in whose place the stored ones are put."""
    found = settings(data, labels="soft", teacher=teacher)
    one = run(found, tmp_path / "psl")
    source, mesh = one.source(found.data.train_split), parallel.data_mesh()
    labels = SoftLabels.open(tmp_path / "psl/soft_labels", source.index, one.segmentation)
    stored = labels.gather(np.arange(len(source.index)))
    network, variables = one._network
    program = train_program(network, make_recipe(found), mesh)
    state = parallel.replicate(init_state(variables), mesh)
    feed = batches.train_batches(Segments(source, one.segmentation), TrainingOrder(4, 0))
    for batch in itertools.islice(feed, 3):
        used = {name: batch[name] for name in ("audio", "num_samples")}
        used["labels"] = stored[batch["clip"], batch["segment"]].astype(np.float32)
        state, _ = program(state, parallel.put_batch(used, mesh), 1e-2)
    assert_same_bits(parallel.to_host(state.variables), last_variables(tmp_path / "psl"))


# --- the teacher in the step ---------------------------------------------------------------------


def in_step(data, teacher, **train):
    """A run on labels that its steps make; the other tests share its program."""
    augment = {"gain_probability": 1.0, "polarity_probability": 1.0, "time_masks": 1}
    augment |= {"time_mask_frames": 20, "mixup_alpha": 0.5}
    changes = {"labels": "soft", "teacher": teacher, "alpha": 0.5, "augment": augment}
    changes["train"] = {"learning_rate": 1e-4} | train
    return settings(data, **changes, relabel={"when": "in_step", "count_padding": True})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of such a run that was not stopped."""
    folder = tmp_path_factory.mktemp("in_step")
    data = small_experiments.write_data(folder / "data")
    teacher = small_experiments.save_model(folder / "teacher", seed=3)
    asked = in_step(data, str(teacher))
    assert not run(asked, folder / "run", "relabel").folder.finished
    assert set(run(asked, folder / "run").folder.finished) == {"train"}
    return folder / "run"


def test_a_run_with_the_teacher_in_the_step_is_one_on_stored_labels(data, tmp_path, teacher, whole):
    """To what float16 takes of the labels. They are made before the student's augmentation."""
    asked = in_step(data, teacher)
    stored = dataclasses.replace(asked.relabel, when="beforehand")
    run(dataclasses.replace(asked, relabel=stored), tmp_path / "stored")
    np.testing.assert_allclose(losses(whole), losses(tmp_path / "stored"), rtol=2e-4)
    assert not (whole / "soft_labels").exists()


def test_another_teacher_is_refused_and_a_stopped_run_goes_on(data, tmp_path, teacher, whole):
    asked = in_step(data, teacher, checkpoint_every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "_validate", stop)
        with pytest.raises(KeyboardInterrupt):
            run(asked, tmp_path / "cut")
    other = small_experiments.save_model(tmp_path / "teacher", seed=4)
    with pytest.raises(OtherRunError, match="made with another teacher"):
        run(asked, tmp_path / "cut")
    small_experiments.save_model(other, seed=3)
    run(asked, tmp_path / "cut")
    assert_same_bits(last_variables(tmp_path / "cut"), last_variables(whole))
    (tmp_path / "teacher").rename(tmp_path / "gone")  # no longer needed
    run(asked, tmp_path / "cut", stage="report")
    assert files.read_json(tmp_path / "cut/metrics.json")["num_clips"] == 8


def stop(self, variables):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"soft_labels_dir": "labels"}, r"config\.soft_labels_dir is 'labels'"),
        ({"augment": {"shift_probability": 0.5}}, r"config\.augment\.shift_probability"),
    ],
)
def test_what_a_teacher_in_the_step_cannot_do_is_refused(data, tmp_path, teacher, changes, words):
    in_step = {"labels": "soft", "teacher": teacher, "relabel": {"when": "in_step"}}
    one = settings(data, **in_step, **changes)
    with pytest.raises(UserError, match=words + r".*relabel\.when=beforehand"):
        Experiment(one, tmp_path / "run", data_dir=str(data)).check()


def test_the_command_labels_short_last_segments_for_runs_that_have_them(data, tmp_path, teacher):
    out = tmp_path / "labels"
    place = (teacher, str(data), f"--split={small_experiments.SPLIT}", f"--out={out}")
    options = ("--segment_seconds=1", "--shortest_segment_seconds=0", "--batch_size=4")
    relabel.main(relabel.parse(["relabel", *place, *options]))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    shared = {"labels": "soft", "teacher": teacher, "soft_labels_dir": str(out)}
    run(settings(data, shortest_segment_seconds=0.0, **shared), tmp_path / "run", "relabel")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(UserError, match=r"shortest_seconds differs: expected 0\.5, found 0\.0"):
        run(settings(data, **shared), tmp_path / "other", "relabel")
    counted = {"shortest_segment_seconds": 0.0, "relabel": {"count_padding": True}}
    with pytest.raises(UserError, match=r"count_padding differs: expected True, found False"):
        run(settings(data, **shared, **counted), tmp_path / "counted", "relabel")
    with pytest.raises(UserError, match="--shortest_segment_seconds is nan"):
        relabel.parse(["relabel", *place, "--segment_seconds=1", "--shortest_segment_seconds=nan"])
