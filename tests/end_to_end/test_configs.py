"""The command as a person gives it: each config, wrong settings, and one small run to its end."""

import json
import re

import places
import pytest
from main_command import SMALL, call_main

from psl_jax import config as config_lib
from psl_jax.experiments import paper_tables, suite_results
from psl_jax.runtime.errors import UserError

ROOT = places.ROOT
TABLES = ("table2", "table3", "table4")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("data", paper_tables.DATA)
def test_a_table_of_the_paper_has_its_experiments(table, data):
    config = getattr(paper_tables, table)(data)
    experiments = config_lib.experiments(config)
    known = paper_tables.table_of(config.name)
    rows = experiments.keys()
    assert rows == known.reported.keys() and next(iter(rows)) == "teacher"
    assert known.reference in rows
    config.teacher = "published.pt"
    later = config_lib.experiments(config)
    assert later.keys() == rows - {"teacher"}
    assert {one.teacher for one in later.values() if one.labels == "soft"} == {"published.pt"}


def test_a_teacher_of_a_suite_is_kept_where_students_name_it():
    config = paper_tables.table2("own_data")
    config_lib.set_nested(config.experiments.psl2s, {"teacher": "teacher"})
    config.teacher = "published.pt"
    assert "teacher" in config_lib.experiments(config)


@pytest.mark.parametrize(
    ("config", "argument", "told"),
    [
        ("table2.py:audoset", "--stage=train", "one of audioset, soundscapes, own_data"),
        ("none.py", "--stage=train", "none.py"),
        ("weak", "--config.train.lerning_rate=1", "Did you mean config.train.learning_rate?"),
        ("weak", "--config.labels=hard", "config.labels is 'hard', expected one of weak, soft"),
        ("weak", "--config.train.batch_size=-1", "config.train.batch_size is -1"),
        ("weak", "--config.data.data_dir=", "data.data_dir must name a prepared TFDS directory"),
        *(
            ("quickstart", f"--config.experiments.{change}", told)
            for change, told in (
                ("student.train.epochs=1", "no experiment 'student'; it has psl10s, psl2s"),
                ("psl2s.train.lerning_rate=1", "Did you mean config.train.learning_rate?"),
                ("psl2s.train.epochs=many", "psl2s.train.epochs is 'many' (str), expected int"),
                ("psl2s.train.epochs", "a value, as --config.experiments.psl2s.train.epochs=VALUE"),
            )
        ),
    ],
)
def test_wrong_settings_are_told_plainly(tmp_path, config, argument, told):
    with pytest.raises(UserError, match=re.escape(told)):
        call_main("--config", f"configs/{config}", "--workdir", tmp_path / "run", argument)


def test_what_a_setting_does_not_reach_is_told(tmp_path, capsys):
    arguments = ("--config", "configs/quickstart.py", "--workdir", tmp_path / "run")
    (tmp_path / "run").write_text("ends the run at once")

    def output(*more):
        with pytest.raises(UserError):
            call_main(*arguments, "--config.train.epochs=3", *more)
        return capsys.readouterr().out

    said = output("--config.train.log_every=7")
    assert "--config.train.epochs=3 does not reach the experiment 'teacher'" in said
    assert "train.epochs=8" in said and "log_every" not in said
    said = output("--config.experiments.teacher.train.epochs=5")
    assert "does not reach the experiment 'teacher'" not in said
    transfer = ("--config", "configs/transfer.py", "--config.init_from=model")
    with pytest.raises(UserError):
        call_main(*transfer, "--workdir", tmp_path / "run")
    assert "does not reach" not in capsys.readouterr().out  # "scratch" starts from nothing


# Some of a suite's experiments: each length of segments is compiled anew.
PART = f"""
import runpy

def get_config():
    config = runpy.run_path({str(ROOT / "configs/quickstart.py")!r})["get_config"]()
    for name in set(config.experiments) - {{"teacher", "psl2s"}}:
        del config.experiments[name]
    return config
"""


def test_a_suite_runs_for_two_steps(tmp_path):
    (tmp_path / "part.py").write_text(PART)
    quickstart = tmp_path / "run"
    call_main(
        *("--config", tmp_path / "part.py", "--workdir", quickstart, *SMALL),
        "--config.experiments.teacher.segment_seconds=2.0",  # programs of one length are compiled
        # Settings in which the suite's experiments do not differ before.
        "--config.experiments.psl2s.train.log_every=7",
        "--config.experiments.psl2s.augment.gain_db=(-3.0, 3.0)",
    )
    results = json.loads((quickstart / "results.json").read_text())
    assert [one["name"] for one in results["experiments"]] == ["teacher", "psl2s"]
    assert (quickstart / "report.html").exists()
    for name, expected in (("teacher", (20, [-18.0, 6.0])), ("psl2s", (7, [-3.0, 3.0]))):
        folder = quickstart / name
        config = json.loads((folder / "config.json").read_text())
        assert (config["train"]["log_every"], config["augment"]["gain_db"]) == expected
        assert "loss" in (folder / "train_log.jsonl").read_text()
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["num_clips"] == 6 and 0 < metrics["mAP"] <= 1
        for made in ("per_class.csv", "report.html", "checkpoints/2", "averaged"):
            assert (folder / made).exists(), made


def test_on_other_data_a_table_has_no_values_of_the_paper():
    known, other = (suite_results.summarize(f"table3{data}", []) for data in ("", "-soundscapes"))
    assert known["reference"] == other["reference"] == "weak10s"
    assert known["paper"]["mixed2s"] == 0.2813 and "paper" not in other
