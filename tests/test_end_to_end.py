"""The command as a person gives it: each config, wrong settings, and one small run to its end."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import synthetic_data

from psl_jax import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def run(*arguments):
    command = [sys.executable, "-m", "psl_jax.main", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid(path):
    experiments = config_lib.experiments(load(path))
    assert experiments
    for name, config in experiments.items():
        assert config.name == name
        assert (config.labels == "soft") == bool(config.teacher)


def test_a_suite_trains_its_teacher_first():
    names = list(config_lib.experiments(load(ROOT / "configs/quickstart.py")))
    assert names == ["teacher", "weak", "psl10s", "psl5s", "psl2s"]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--config.train.lerning_rate=1", "Did you mean config.train.learning_rate?"),
        ("--config.labels=hard", "config.labels is 'hard', expected one of weak, soft"),
        ("--config.train.batch_size=0", "config.train.batch_size is 0"),
        ("--config.data.data_dir=", "data.data_dir must name a prepared TFDS directory"),
    ],
)
def test_wrong_settings_are_told_plainly(tmp_path, argument, told):
    result = run("--config", "configs/weak.py", "--workdir", tmp_path / "run", argument)
    assert result.returncode == 2
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_config_is_told_plainly(tmp_path):
    result = run("--config", tmp_path / "none.py")
    assert result.returncode == 2
    assert "none.py" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    for seed, split in enumerate(("balanced", "eval")):
        index = synthetic_data.make_index([4, 2], 32_000, split=split)
        audio = synthetic_data.make_audio(index, seed)
        synthetic_data.write_packed(folder / f"{split}.npz", index, audio)
    return folder


def test_a_run_leaves_what_the_readme_says_and_is_not_done_again(tmp_path, packed_folder):
    arguments = (
        *("--config", "configs/weak.py", "--workdir", tmp_path / "run"),
        *("--config.data.corpus=packed", f"--config.data.data_dir={packed_folder}"),
        *("--config.segment_seconds=2", "--config.model.width=0.1", "--config.train.max_steps=2"),
        *("--config.train.batch_size=4", "--config.evaluate.batch_size=4"),
    )
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["num_clips"] == 6
    assert 0 < metrics["mAP"] <= 1
    scores = np.load(folder / "scores.npz")
    assert scores["scores"].shape[0] == len(scores["ids"]) == 6
    losses = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in losses if "loss" in line] == [2]
    for name in ("config.json", "per_class.csv", "report.html", "checkpoints/2", "averaged"):
        assert (folder / name).exists(), name

    written = (folder / "scores.npz").stat().st_mtime_ns
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    assert (folder / "scores.npz").stat().st_mtime_ns == written

    other = run(*arguments, "--config.seed=1")
    assert other.returncode == 2
    assert "seed: 0 there, 1 now" in other.stderr
