"""A student on recordings without labels, by a teacher whose classes it takes."""

import audio_files
import numpy as np
import prepared_data
import pytest
import small_experiments

from psl_jax import UserError
from psl_jax.commands import evaluate
from psl_jax.preparing.prepare_corpus import prepare
from psl_jax.runtime import files
from psl_jax.training.metric_log import VALIDATION_MAP, read_log
from psl_jax.weights.load_model import load_model

SPLITS = {"train_split": "unlabelled", "validation_split": "validation", "eval_split": "eval"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for number, sound in enumerate(small_experiments.sounds([32_000] * 4)):
        audio_files.write(folder / "source" / f"{number}.wav", sound)
    settings = prepared_data.config(source_dir=str(folder / "source"), unlabelled=True)
    return prepare(settings, folder)


def test_training_makes_all_steps_and_the_last_four_checkpoints_are_the_model(data, tmp_path):
    teacher = small_experiments.save_model(tmp_path / "teacher", seed=3)
    train = {"max_steps": 5, "validate_every": 1, "patience": 1}
    soft = {"labels": "soft", "teacher": str(teacher), "train": train}
    found = small_experiments.settings(data, data=SPLITS, **soft)
    run = small_experiments.run(found, tmp_path / "student", "report")
    model = load_model(tmp_path / "student")
    assert model.classes == small_experiments.CLASSES
    assert sorted(model.info.origin["averaged_steps"]) == [2, 3, 4, 5]
    assert not any(VALIDATION_MAP in line for line in read_log(tmp_path / "student"))
    metrics = files.read_json(tmp_path / "student/metrics.json")
    assert metrics["mAP"] is None and metrics["num_clips"] == 4
    notes = " ".join(files.read_json(tmp_path / "student/notes.json", list))
    assert "no validation, as split 'validation' has no labels" in notes
    assert "no evaluation, as split 'eval' has no labels" in notes
    assert "no validation" in (tmp_path / "student/report.html").read_text()
    assert run.summary()["mAP"] is None
    soft = run.label_stage.open().of_segments(np.array([0, 3]), np.array([0, 1]))
    assert np.isfinite(soft).all() and soft.shape == (2, 3)


def test_what_needs_labels_says_so(data, tmp_path):
    weak = small_experiments.settings(data, data=SPLITS)
    with pytest.raises(UserError, match="the data have no labels and no classes: both come from"):
        small_experiments.run(weak, tmp_path / "weak")
    teacher = small_experiments.save_model(tmp_path / "teacher")
    arguments = evaluate.parse(["evaluate", str(teacher), data, "--split=eval"])
    with pytest.raises(UserError, match="there is nothing to evaluate"):
        evaluate.main(arguments)
