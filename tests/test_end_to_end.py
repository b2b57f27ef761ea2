"""The command as a person gives it: each config, wrong settings, and one small run to its end."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import audio_files
import numpy as np
import places
import pytest
import synthetic_data

from psl_jax import config as config_lib
from psl_jax.experiments import paper

ROOT = places.ROOT
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
TABLES = ("table2", "table3", "table4")
TRANSFERRED = ["finetuned", "probe", "scratch"]
PUBLISHED = ("fsd50k", "fsdkaggle2018", "fsdkaggle2019", "esc50", "urbansound8k")  # transfers to
SUITES = {
    *("quickstart", "own_data", "transfer", "real_teacher", "table5"),
    *PUBLISHED,
    *TABLES,
}


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


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("data", paper.DATA)
def test_a_table_of_the_paper_has_its_experiments(table, data):
    config = getattr(paper, table)(data)
    experiments = config_lib.experiments(config)
    known = paper.table_of(config.name)
    rows = experiments.keys()
    assert rows == known.reported.keys() and next(iter(rows)) == "teacher"
    assert known.reference in rows
    config.teacher = "published.pt"
    later = config_lib.experiments(config)
    assert later.keys() == rows - {"teacher"}
    assert {one.teacher for one in later.values() if one.labels == "soft"} == {"published.pt"}


def test_experiments_of_a_table_can_be_changed_one_by_one():
    config = paper.table4()
    config_lib.apply(config.experiments["full_psl2s"], {"data": {"train_split": "other"}})
    splits = {n: one.data.train_split for n, one in config_lib.experiments(config).items()}
    assert splits["full_psl2s"] == "other" and splits["full_psl5s"] == "full"


def test_a_teacher_of_a_suite_is_kept_where_students_name_it():
    config = load(ROOT / "configs/own_data.py")
    config.teacher = "published.pt"
    assert "teacher" in config_lib.experiments(config)


def test_a_table_on_unknown_data_is_told_plainly(tmp_path):
    result = run("--config", "configs/table2.py:audoset", "--workdir", tmp_path)
    assert result.returncode == 2 and "one of audioset, soundscapes, own_data" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_suite_trains_its_teacher_first():
    names = list(config_lib.experiments(load(ROOT / "configs/quickstart.py")))
    assert names == ["teacher", "weak", "psl10s", "psl5s", "psl2s"]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--config.train.lerning_rate=1", "Did you mean config.train.learning_rate?"),
        ("--config.labels=hard", "config.labels is 'hard', expected one of weak, soft"),
        ("--config.train.batch_size=-1", "config.train.batch_size is -1"),
        ("--config.data.data_dir=", "data.data_dir must name a prepared TFDS directory"),
    ],
)
def test_wrong_settings_are_told_plainly(tmp_path, argument, told):
    result = run("--config", "configs/weak.py", "--workdir", tmp_path / "run", argument)
    assert result.returncode == 2
    assert told in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("student.train.epochs=1", "no experiment 'student'; it has psl10s, psl2s"),
        ("psl2s.train.lerning_rate=1", "Did you mean config.train.learning_rate?"),
        ("psl2s.train.epochs=many", "psl2s.train.epochs is 'many' (str), expected int"),
        ("psl2s.train.epochs", "Is it --config.experiments.psl2s.train.epochs=VALUE?"),
    ],
)
def test_wrong_settings_of_an_experiment_are_told_plainly(tmp_path, change, told):
    arguments = ("--config", "configs/quickstart.py", "--workdir", tmp_path / "run")
    result = run(*arguments, f"--config.experiments.{change}")
    assert result.returncode == 2
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_what_a_setting_does_not_reach_is_told(tmp_path):
    arguments = ("--config", "configs/quickstart.py", "--workdir", tmp_path / "run")
    (tmp_path / "run").write_text("ends the run at once")
    result = run(*arguments, "--config.train.epochs=3", "--config.train.log_every=7")
    assert "--config.train.epochs=3 does not reach the experiment 'teacher'" in result.stdout
    assert "train.epochs=8" in result.stdout and "log_every" not in result.stdout
    own = "--config.experiments.teacher.train.epochs=5"
    result = run(*arguments, "--config.train.epochs=3", own)
    assert "does not reach" not in result.stdout
    transfer = ("--config", "configs/transfer.py", "--config.init_from=model")
    result = run(*transfer, "--workdir", tmp_path / "run")
    assert "does not reach" not in result.stdout  # "scratch" starts from nothing on purpose


def test_a_missing_config_is_told_plainly(tmp_path):
    result = run("--config", tmp_path / "none.py")
    assert result.returncode == 2
    assert "none.py" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def prepared_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    for seed, split in enumerate(("balanced", "eval", "full")):
        index = synthetic_data.make_index([4, 2], 32_000, split=split)
        audio = synthetic_data.make_audio(index, seed)
        synthetic_data.write_prepared(folder, index, audio)
    return folder


def test_a_run_leaves_what_the_readme_says_and_is_not_done_again(tmp_path, prepared_folder):
    arguments = (
        *("--config", "configs/weak.py", "--workdir", tmp_path / "run"),
        *("--config.data.corpus=tfds", f"--config.data.data_dir={prepared_folder}"),
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


SMALL = (
    *("--config.model.width=0.1", "--config.train.max_steps=2"),
    *("--config.train.batch_size=4", "--config.evaluate.batch_size=4"),
)


def run_small(*arguments):
    """The command with a network of few layers, which compiles fast."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "small_main.py", *map(str, arguments), *SMALL],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_ran(folder, names):
    for name in names:
        assert "loss" in (folder / name / "train_log.jsonl").read_text()
        assert json.loads((folder / name / "metrics.json").read_text())["num_clips"] == 6


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory):
    """A folder as configs/own_data.py takes it, two classes."""
    folder = tmp_path_factory.mktemp("own")
    for split in ("full", "balanced", "eval"):
        rows = ["filename,labels"]
        for i in range(6):
            audio_files.write(folder / "audio" / f"{split}{i}.wav", audio_files.tone(2.0))
            rows.append(f"audio/{split}{i}.wav,{'ab'[i % 2]}")
        (folder / f"{split}.csv").write_text("\n".join(rows))
    return folder


SIZES = [f"--config.data.{split}_clips=6" for split in ("full", "balanced", "eval")]


@pytest.fixture(scope="module")
def run_suite(audio_folder, tmp_path_factory):
    """Runs a suite once: its folder."""
    root = tmp_path_factory.mktemp("suites")

    def run_config(name):
        if not (root / name).exists():
            run_small(
                *("--config", f"configs/{name}.py", "--workdir", root / name, *SIZES),
                f"--config.data.source_dir={audio_folder if name == 'own_data' else ''}",
                # Settings in which the suite's experiments do not differ before.
                "--config.experiments.psl2s.train.log_every=7",
                "--config.experiments.psl2s.augment.gain_db=(-3.0, 3.0)",
            )
        return root / name

    return run_config


@pytest.mark.parametrize("name", ["quickstart", "own_data"])
def test_suites_run_for_two_steps(run_suite, name):
    folder = run_suite(name)
    changed, other = (
        json.loads((folder / run_dir / "config.json").read_text()) for run_dir in ("psl2s", "psl5s")
    )
    assert (changed["train"]["log_every"], changed["augment"]["gain_db"]) == (7, [-3.0, 3.0])
    assert (other["train"]["log_every"], other["augment"]["gain_db"]) == (20, [-18.0, 6.0])
    names = [
        one["name"] for one in json.loads((folder / "results.json").read_text())["experiments"]
    ]
    assert names == ["teacher", "weak", "psl10s", "psl5s", "psl2s"]
    assert_ran(folder, names)
    assert (folder / "report.html").exists()


def test_a_table_of_the_paper_has_its_columns(run_suite, tmp_path):
    """What may be chance, and on other data than AudioSet no value of the paper."""
    first = run_suite("quickstart")  # on the same data
    out = run_small(
        *("--config", "configs/table3.py:soundscapes", "--workdir", tmp_path, *SIZES),
        *(f"--config.teacher={first / 'teacher'}", f"--config.data.data_dir={first / 'data'}"),
    )
    results = json.loads((tmp_path / "results.json").read_text())
    lengths = (10, 5, 2)
    names = [f"{kind}{length}s" for kind in ("weak", "mixed") for length in lengths]
    assert [one["name"] for one in results["experiments"]] == names  # the teacher is there already
    assert results["reference"] == "weak10s" and "paper" not in results
    for one in results["experiments"]:
        assert ("over_reference" in one) == (one["name"] != "weak10s")
    header = next(line for line in out.splitlines() if line.startswith("experiment"))
    assert "vs weak10s" in header and "95 %" in header and "paper" not in header
    assert re.search(r"computes on \d+ x cpu of 1 process", out)
    config = json.loads((tmp_path / "mixed2s" / "config.json").read_text())
    assert (config["alpha"], config["segment_seconds"]) == (0.5, 2.0)


def test_a_model_is_transferred_to_other_data(tmp_path, audio_folder, run_single):
    run_small(
        *("--config", "configs/transfer.py", "--workdir", tmp_path),
        *(f"--config.init_from={run_single('weak')}", f"--config.data.source_dir={audio_folder}"),
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert sorted(one["name"] for one in results["experiments"]) == TRANSFERRED
    assert results["reference"] == "scratch"
    assert_ran(tmp_path, TRANSFERRED)


@pytest.fixture(scope="module")
def run_single(prepared_folder, tmp_path_factory):
    """Runs a config of one experiment on small data: its run folder."""
    root = tmp_path_factory.mktemp("single")

    def run_config(name, *arguments):
        if not (root / name).exists():
            run_small(
                *("--config", f"configs/{name}.py", "--workdir", root / name),
                *("--config.data.corpus=tfds", f"--config.data.data_dir={prepared_folder}"),
                *arguments,
            )
        return root / name

    return run_config


# psl5s differs from the others in a number alone.
@pytest.mark.parametrize("name", sorted({p.stem for p in CONFIGS} - SUITES - {"psl5s"}))
def test_single_experiments_run_for_two_steps(run_single, name):
    folder = run_single(name) if name in ("teacher", "weak") else None
    if folder is None:
        folder = run_single(name, f"--config.teacher={run_single('teacher')}")
    assert_ran(folder.parent, [name])
