"""A config over the folds of a data set."""

import csv
import json

import audio_files
import numpy as np
import pytest
import small_experiments

from psl_jax import UserError
from psl_jax import config as config_lib
from psl_jax.experiments import paper_tables, suite, suite_results
from psl_jax.experiments.run_folder import Stage
from psl_jax.experiments.suite_results import Repetition
from psl_jax.scoring import bootstrap

pytestmark = pytest.mark.usefixtures("empty_figures")


@pytest.fixture
def recordings(tmp_path):
    """ESC-50 in small: three folds of four clips, of two classes."""
    folder, rows = tmp_path / "esc", []
    for number, audio in enumerate(small_experiments.sounds([16_000] * 12)):
        path = audio_files.write(folder / f"{number}.wav", audio)
        rows.append((path.name, 1 + number // 4, number % 2, ("dog", "rain")[number % 2]))
    audio_files.write_table(folder / "esc50.csv", "filename,fold,target,category", rows)
    return folder


@pytest.fixture
def config(recordings, tmp_path):
    esc50 = paper_tables.make_fold_config("esc50", 1.0)
    esc50.init_from = str(small_experiments.save_model(tmp_path / "start"))
    esc50.data.source_dir = str(recordings)
    config_lib.set_nested(esc50.train, {"max_steps": 2, "batch_size": 4, "log_every": 1})
    esc50.experiments.probe.train.epochs = 1
    esc50.experiments.probe.data = {"train_split": "fold1"}  # as teachers have one of their own
    del esc50.experiments["finetuned"]
    return esc50


def test_a_fold_is_evaluated_and_the_others_are_trained_on(config, tmp_path, capsys):
    suite.run(config, tmp_path / "run", folds=[1, 3])
    out = capsys.readouterr().out
    assert "mean ± standard deviation over 2 folds" in out
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["folds"] == [1, 3]
    for row in results["experiments"]:
        found = []
        for fold, others in ((1, "fold2+fold3"), (3, "fold1+fold2")):
            run = tmp_path / f"run/fold{fold}" / row["name"]
            data = json.loads((run / "config.json").read_text())["data"]
            assert (data["train_split"], data["eval_split"]) == (others, f"fold{fold}")
            found.append(json.loads((run / "metrics.json").read_text())["mAP"])
        assert row["mAP"] == pytest.approx(np.mean(found)) and row["num_clips"] == 8
        assert row["mAP_by_fold"] == found
        assert row["run_dirs"] == [f"fold{fold}/{row['name']}" for fold in (1, 3)]
    probe = next(row for row in results["experiments"] if row["name"] == "probe")
    assert set(probe["over_reference"]) == {"low", "high"}
    assert "means over the folds 1, 3, ±" in (tmp_path / "run/report.html").read_text()


def test_with_seeds_each_fold_is_a_mean_over_them_first():
    def row(name, value, clips):
        dirs = [f"seed{seed}/{name}" for seed in (0, 1)]
        found = {"name": name, "mAP": value, "mAP_spread": 0.5, "seconds": 1.0, "run_dirs": dirs}
        return found | {"num_clips": 4, "clip_ids_sha256": clips}

    def of_fold(scratch, probe, clips):
        rows = [row("scratch", scratch, clips), row("probe", probe, clips)]
        told = {"reference": "scratch", "seeds": [0, 1], "clips": "seed0/clips"}
        return told | {"experiments": rows}

    results = [of_fold(0.1, 0.2, "a"), of_fold(0.3, 0.5, "b")]
    found = suite_results.merge(results, Repetition("fold", (2, 5)), is_suite=True)
    assert found["seeds"] == [0, 1] and found["folds"] == [2, 5] and "clips" not in found
    probe = found["experiments"][1]
    assert probe["mAP"] == pytest.approx(0.35)
    assert probe["mAP_spread"] == pytest.approx(np.std([0.2, 0.5], ddof=1))  # over folds
    assert probe["gain_spread"] == pytest.approx(np.std([0.1, 0.2], ddof=1))
    assert probe["run_dirs"] == [f"fold{k}/seed{seed}/probe" for k in (2, 5) for seed in (0, 1)]
    assert probe["num_clips"] == 8 and "lwlrap" not in probe


def test_own_recordings_are_split_into_five_folds(tmp_path, capsys):
    for number, audio in enumerate(small_experiments.sounds([16_000] * 20)):
        audio_files.write(tmp_path / f"own/{number % 2}/{number}.wav", audio)
    config = paper_tables.table2("own_data")
    config.data.source_dir = str(tmp_path / "own")
    suite.run(config, tmp_path / "run", last_stage=Stage.PREPARE)
    assert "Delete splits.csv and train with --folds=all" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected data with the splits fold1, fold2"):
        suite.run(config, tmp_path / "run", folds=[], last_stage=Stage.PREPARE)
    (tmp_path / "own/splits.csv").unlink()
    suite.run(config, tmp_path / "run", folds=[], last_stage=Stage.PREPARE)
    with (tmp_path / "own/splits.csv").open() as file:
        folds = [row["split"] for row in csv.DictReader(file)]
    assert sorted(folds) == [f"fold{k}" for k in range(1, 6) for _ in range(4)]
    config.data.unlabelled = True
    with pytest.raises(UserError, match=r"does not go with data\.unlabelled"):
        suite.run(config, tmp_path / "run", folds=[], last_stage=Stage.PREPARE)


def test_a_fold_that_the_data_lack_is_named(config, tmp_path):
    with pytest.raises(UserError, match="no fold 4; they have 1, 2, 3"):
        suite.run(config, tmp_path / "run", folds=[4])


def test_more_folds_make_the_interval_narrower():
    rng = np.random.default_rng(1)
    truth = np.eye(3)[rng.integers(0, 3, 90)]
    weak, psl = ([truth + scale * rng.normal(size=truth.shape)] for scale in (2, 1))
    alone = bootstrap.compute_difference([(truth, psl, weak)])
    four = bootstrap.compute_difference([(truth, psl, weak)] * 4)
    assert four.difference == pytest.approx(alone.difference)
    # Of four times as many clips, drawn fold by fold: half as wide.
    assert (four.high - four.low) / (alone.high - alone.low) == pytest.approx(0.5, abs=0.1)
