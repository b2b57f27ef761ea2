"""configs/psl2s.py:code follows the published code in each row where it differs from the paper."""

import pathlib
import runpy

import numpy as np
import pytest
import small_experiments
import synthetic_data
from places import ROOT
from small_experiments import SPLIT, run, settings

from psl_jax import UserError
from psl_jax import config as config_lib
from psl_jax.audio.segments import Segmentation
from psl_jax.config import Settings
from psl_jax.runtime import files

STUDENTS = ("psl2s", "psl5s", "psl10s")


def of(name: str, *arguments: str) -> Settings:
    config = runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"](*arguments)
    (found,) = config_lib.experiments(config).values()
    return found


# Each row in which the published code differs: the setting, the paper's value, the code's.
ROWS = {
    "train.learning_rate": (1e-4, 1e-3),
    "evaluate.segments": ("training", "whole"),
    "relabel.when": ("beforehand", "in_step"),
    "model.count_padding": (False, True),
    "relabel.count_padding": (False, True),
    "shortest_segment_seconds": (0.5, 0.0),
    "frontend.top_db_over": ("clip", "batch"),
    "train.best_checkpoints": (4, 1),
}


@pytest.mark.parametrize("student", STUDENTS)
def test_each_row_is_a_setting_and_nothing_else_differs(student):
    assert of(student) == of(student, "paper")
    paper, code = (
        config_lib.stored_settings(config_lib.to_dict(of(student, *way)), "here")
        for way in ((), ("code",))
    )
    differing = [name for names in config_lib.changed(paper, code).values() for name in names]
    assert {name: (paper[name], code[name]) for name in differing} == ROWS
    for stored in (paper, code):  # on the training clips
        assert stored["data.validation_split"] == stored["data.train_split"] == "balanced"


def test_an_unknown_way_is_told():
    with pytest.raises(UserError, match=r"psl2s\.py:cod is unknown: give paper or code"):
        of("psl2s", "cod")


def test_a_remainder_of_six_hundredths_of_a_second_becomes_a_segment():
    lengths = np.array([1, 16_000, 16_960, 32_000, 160_960])
    code, paper = Segmentation(2.0, shortest_seconds=0.0), Segmentation(2.0)
    assert code.count_segments(lengths).tolist() == [1, 1, 1, 1, 6]
    assert paper.count_segments(lengths).tolist() == [1, 1, 1, 1, 5]
    short = Segmentation(1.0, shortest_seconds=0.0)
    assert short.count_segments(lengths).tolist() == [1, 1, 2, 2, 11]
    assert code.count_valid_samples(lengths, 5).tolist() == [0, 0, 0, 0, 960]


def write(folder: pathlib.Path, lengths, heard) -> pathlib.Path:
    """Clips of `lengths`, of which so much is heard, and zeros follow."""
    index = synthetic_data.make_index([4, 4], lengths, split=SPLIT)
    audio = small_experiments.sounds([32_000] * 8)
    for clip, count in zip(audio, heard, strict=True):
        clip[count:] = 0
    audio = [clip[:length] for clip, length in zip(audio, lengths, strict=True)]
    return synthetic_data.write_prepared(folder, index, audio)


def test_padding_that_counts_is_silence_in_the_clip(tmp_path):
    """Training, validation and evaluation of clips that end early are those of silent endings."""
    heard = [25_000, 32_000, 24_001, 31_000] * 2
    short = write(tmp_path / "short", heard, heard)
    long = write(tmp_path / "long", [32_000] * 8, heard)
    common = {"evaluate": {"segments": "whole"}, "train": {"learning_rate": 1e-4}}
    run(settings(long, **common), tmp_path / "silent", "evaluate")
    run(settings(short, model={"count_padding": True}, **common), tmp_path / "code", "evaluate")
    paths = (tmp_path / name / "scores.npz" for name in ("silent", "code"))
    expected, found = (np.load(path)["scores"] for path in paths)
    np.testing.assert_allclose(found, expected, atol=2e-4)  # without it 20 times as far


def test_it_runs_from_labels_to_scores(tmp_path):
    data = small_experiments.write_data(tmp_path / "data", (16_000, 16_960, 9_000, 32_000))
    teacher = small_experiments.save_model(tmp_path / "teacher")
    config = config_lib.student("psl2s", 1.0, "code")
    changes = config_lib.to_dict(settings(data))
    for name in ("data", "model", "train"):
        config_lib.set_nested(config[name], changes[name])
    config_lib.set_nested(config, config_lib.PUBLISHED_CODE | {"data": {}})
    config.teacher = str(teacher)
    (found,) = config_lib.experiments(config).values()
    one = run(found, tmp_path / "run", "evaluate")
    assert one.train_segments == 2 * (1 + 2 + 1 + 2)
    metrics = files.read_json(tmp_path / "run/metrics.json")
    assert len(metrics["averaged_steps"]) == 1 and metrics["num_clips"] == 8
    assert not (tmp_path / "run/soft_labels").exists()
