"""The paper's table 5, and what it needs: data of its own for each experiment, and starts."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import small_experiments
import synthetic_data

from psl_jax import UserError
from psl_jax import config as config_lib
from psl_jax.config import STUDENTS
from psl_jax.experiments import paper_tables, suite, transfer_configs
from psl_jax.experiments.run_folder import OtherRunError
from psl_jax.reporting import result_tables
from psl_jax.runtime.run_files import Stage
from psl_jax.weights.load_model import load_model


def test_the_rows_are_the_papers():
    config = transfer_configs.table5()
    config.teacher, config.init_from = "ma.pt", "psl2s.pt"
    found = config_lib.experiments(config)
    table = paper_tables.table_of(config.name)
    assert found.keys() == table.reported.keys()
    for name, one in found.items():
        model, _, target = name.partition("_")
        assert one.init_from == {"ma": "ma.pt", "psl2s": "psl2s.pt"}[model]
        assert one.segment_seconds == {"ma": 10.0, "psl2s": STUDENTS["psl2s"]}[model]
        assert (one.train.trainable, one.evaluate.segments) == ("classifier", "whole")
        assert one.data.data_set == transfer_configs.TARGETS[target].corpus
        assert one.labels == "weak" and one.data.eval_split in ("eval", "test")
    improvements = [9.82, 1.90, 3.02, 0.92]  # as printed
    for improvement, target in zip(improvements, transfer_configs.TARGETS, strict=True):
        ours, theirs = (table.reported[f"{model}_{target}"].value for model in ("psl2s", "ma"))
        assert 100 * (ours - theirs) == pytest.approx(improvement, abs=1e-6)


def test_starts_in_a_circle_are_refused():
    config = config_lib.base()
    config.experiments = {"one": {"init_from": "other"}, "other": {"init_from": "one"}}
    with pytest.raises(UserError, match="need each other in a circle, as teacher or init_from"):
        config_lib.experiments(config)


@pytest.fixture
def config(tmp_path):
    """A teacher on one data set, and its classifier anew on another one."""
    small_experiments.write_data(tmp_path / "first")
    index = synthetic_data.make_index([5], 18_000, num_classes=4, split=small_experiments.SPLIT)
    (tmp_path / "second").mkdir()
    audio = small_experiments.sounds(index.num_samples)
    synthetic_data.write_prepared(tmp_path / "second", index, audio)
    result = config_lib.base()
    result.data.update({"corpus": "tfds", "data_dir": str(tmp_path), "data_set": "first"})
    for split in ("train_split", "validation_split", "eval_split"):
        result.data[split] = small_experiments.SPLIT
    result.segment_seconds, result.model.width, result.model.dropout = 1.0, 0.1, 0.0
    result.train.update({"batch_size": 4, "max_steps": 2, "learning_rate": 1e-2})
    result.frontend.top_db = 80.0
    probe = {"init_from": "teacher", "data": {"data_set": "second"}, "frontend": {"top_db": 120.0}}
    probe |= {"train": {"trainable": "classifier"}, "model": {"width": 1.0}}
    result.experiments = {"teacher": {}, "probe": probe}
    return result


def frozen(folder: pathlib.Path):
    return {k: v for k, v in load_model(folder).variables.params.items() if k != "classifier"}


def test_an_experiment_starts_from_another_one_on_other_data(config, tmp_path):
    workdir = tmp_path / "run"
    suite.run(config, workdir, last_stage=Stage.AVERAGE)
    jax.tree.map(
        np.testing.assert_array_equal, *map(frozen, (workdir / "teacher", workdir / "probe"))
    )
    probe, teacher = load_model(workdir / "probe"), load_model(workdir / "teacher")
    assert (len(teacher.classes), len(probe.classes)) == (3, 4)
    assert (probe.info.width, probe.info.logmel.top_db) == (0.1, 80.0)
    data = json.loads((workdir / "probe/data.json").read_text())
    assert data["init_from"] == teacher.digest
    written = (workdir / "probe/averaged/model.json").stat().st_mtime_ns
    suite.run(config, workdir, last_stage=Stage.AVERAGE)  # finished stages are skipped
    assert (workdir / "probe/averaged/model.json").stat().st_mtime_ns == written
    shutil.rmtree(workdir / "teacher")  # what is trained in its place is another one
    config.seed = config.experiments.probe.seed = 1
    config.experiments.probe.seed = 0
    with pytest.raises(OtherRunError, match="from another model"):
        suite.run(config, workdir, last_stage=Stage.AVERAGE)


def test_the_table_tells_each_data_set_by_its_measure():
    def row(name, clips, **values):
        return {"name": name, "num_clips": clips, "clip_ids_sha256": str(clips), **values}

    results = {
        "name": "table5",
        "references": transfer_configs.REFERENCES,
        "measures": transfer_configs.MEASURES,
        "paper": {name: one.value for name, one in paper_tables.TABLES["table5"].reported.items()},
        "experiments": [
            row("ma_fsd50k", 10, mAP=0.4, lwlrap=0.9),
            row("psl2s_fsd50k", 10, mAP=0.5, lwlrap=0.9, over_reference={"low": 0.05, "high": 0.2}),
            row("ma_fsd2019_noisy", 20, mAP=0.1, lwlrap=0.5),
            row(
                "psl2s_fsd2019_noisy",
                20,
                mAP=0.2,
                lwlrap=0.55,
                over_reference={"low": 0, "high": 1},
            ),
        ],
    }
    text = result_tables.format_table(results)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert lines["experiment"][:6] == ["experiment", "mAP", "%", "measure", "value", "%"]
    assert {"mAP", "50.00", "+10.00", "54.23", "-4.23"} <= set(lines["psl2s_fsd50k"])
    assert {"lwlrap", "55.00", "+5.00", "54.49", "+0.51"} <= set(lines["psl2s_fsd2019_noisy"])
    assert "+100.00" not in lines["psl2s_fsd2019_noisy"]  # an interval is of mAP
    assert "different clips" not in text
    results["experiments"][1]["num_clips"] = 9
    assert "different clips" in result_tables.format_table(results)
