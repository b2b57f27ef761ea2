"""Settings: one owner each, checked; who teaches whom; what a run folder lets change."""

import dataclasses
import runpy
import types

import jax
import main_command
import pytest
from ml_collections import ConfigDict
from places import ROOT

from psl_jax import UserError, main, settings_reference
from psl_jax import config as config_lib
from psl_jax.audio.segments import Segmentation
from psl_jax.experiments import setting_checks
from psl_jax.runtime.settings import Kind

CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def changed_config(**changes) -> ConfigDict:
    config = config_lib.base()
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_hold_the_settings_that_there_are(path):
    config = runpy.run_path(str(path))["get_config"]()
    for name, one in config_lib.experiments(config).items():
        assert one.name == name
        assert (one.labels == "soft") == bool(one.teacher)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("train.log_every", 0, "at least 1"),
        ("train.learning_rate", 0.0, "above 0"),
        ("model.dropout", 1.5, "at least 0 and below 1"),
        ("alpha", 2.0, "at least 0 and at most 1"),
        ("labels", "hard", "one of weak, soft"),
        ("segment_seconds", float("inf"), "at least 0.032 and at most 3600"),
        ("segment_seconds", 0.01, "at least 0.032"),  # less than a window
        ("hop_seconds", float("nan"), "at least 0"),
        ("seed", 2**64, "at most"),
        ("train.epochs", 10**30, "at most 2147483647"),
        ("augment.gain_db", (float("-inf"), 6.0), "a finite number"),
    ],
)
def test_values_out_of_range_are_named(name, value, expected):
    with pytest.raises(UserError, match=rf"config\.{name} is .*, expected .*{expected}"):
        config_lib.experiments(changed_config(**{name: value}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"augment.gain_db": (6.0, -18.0)}, r"gain_db is \(6\.0, -18\.0\)"),
        ({"alpha": 0.5}, r"config\.alpha is 0\.5 and labels is weak"),
        ({"init_class_map": "names"}, "init_class_map is 'names' and init_from is empty"),
        ({"evaluate.segments": "0.01"}, r"is '0\.01': expected training, whole, or 0\.032 s"),
        ({"evaluate.segments": "nan"}, "is 'nan': expected training, whole, or"),
        ({"evaluate.segments": "half"}, "is 'half': expected training, whole, or"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        config_lib.experiments(changed_config(**changes))


def test_an_alpha_of_the_suite_is_not_one_of_its_weak_experiments():
    config = suite(weak="", student="runs/teacher")
    config.alpha = 0.5
    assert config_lib.experiments(config)["student"].alpha == 0.5
    config_lib.set_nested(config.experiments.weak, {"alpha": 0.5})
    with pytest.raises(UserError, match=r"config\.experiments\.weak\.alpha is 0\.5"):
        config_lib.experiments(config)


@pytest.mark.parametrize(
    ("changes", "devices", "words"),
    [
        ({"augment.mixup_alpha": 0.5}, 32, "32 on 32 devices: mixup pairs .* such as 64"),
        ({"train.batch_size": 6}, 4, "6 on 4 devices: give a multiple of 4, such as 8"),
        ({"train.batch_size": 10**6}, 1, r"1000000: .* 10,000 GB.* At most [\d,]+ can"),
        ({"relabel.batch_size": 10**6}, 1, r"1000000: .* 1,000 GB.* At most [\d,]+ can"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(changes, devices, words):
    (one,) = config_lib.experiments(changed_config(**changes)).values()
    mesh = types.SimpleNamespace(size=devices, local_devices=jax.local_devices())
    with pytest.raises(UserError, match=rf"config\.(train|relabel)\.batch_size is {words}"):
        setting_checks.check_batch(one, mesh)


def test_an_element_of_a_tuple_is_no_setting():
    assert "give all of it, as in --config.augment.gain_db=" in config_lib.unknown_key_message(
        "augment.gain_db[0]"
    )


@pytest.mark.parametrize("value", [True, "8", 8.5, None])
def test_other_types_are_named(value):
    config = ConfigDict(config_lib.base().to_dict() | {"seed": value})
    with pytest.raises(UserError, match=r"config\.seed is .* expected int, such as 0"):
        config_lib.experiments(config)


def test_whole_numbers_are_floats_and_lists_are_tuples():
    values = config_lib.base().to_dict()
    values["segment_seconds"], values["augment"]["gain_db"] = 2, [-3, 3.0]
    (one,) = config_lib.experiments(ConfigDict(values)).values()
    assert one.segment_seconds == 2 and one.augment.gain_db == (-3, 3.0)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("seed", "007", 7),
        ("train.learning_rate", "1", 1.0),
        ("augment.gain_db", "(-3,3)", (-3.0, 3.0)),
        ("model.count_padding", "1", True),
        ("name", "007", "007"),
    ],
)
def test_settings_of_the_command_line_have_the_type_of_the_setting(key, text, value):
    config = config_lib.base()
    main._change(config, f"--config.{key}={text}")
    for part in key.split("."):
        config = config[part]
    assert config == value and type(config) is type(value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def get_config(:", r"config .*mine\.py: invalid syntax \(mine\.py, line 1\)"),
        ("import nothing_here", r"config .*mine\.py: No module named 'nothing_here'"),
        ("config = None", r"mine\.py: it has no get_config"),
        ("def get_config():\n  return nothing", r"mine\.py: name 'nothing' is not defined"),
        ("def get_config():\n  return 5", r"get_config\(\) gives 5, expected a ConfigDict"),
        ("def get_config():\n  return None", r"get_config\(\) gives None, expected a ConfigDict"),
        ("def get_config(a, b):\n  return 5", "mine.py: .* missing 2 required"),
    ],
)
def test_a_file_that_is_no_config_is_told_in_a_line(tmp_path, content, words):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(UserError, match=words) as told:
        main_command.call_main(f"--config={path}")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--start_afresh", "false"], "--start_afresh false: give --start_afresh=false"),
        (["--config.seed", "7"], "--config.seed 7: give --config.seed=7"),
        (["--config.seed"], "--config.seed: expected a value, as --config.seed=VALUE"),
        (["--config.augment.gain_db[0]=-3.0"], r"gain_db\[0\]: give all of it"),
    ],
)
def test_values_need_an_equals_sign_and_elements_their_tuple(arguments, words):
    with pytest.raises(UserError, match=words):
        main.parse(["main", "--config=weak", *arguments])


@pytest.mark.parametrize("word", ["config.train.max_steps=3", "--seed=1", "word"])
def test_stray_words_are_refused(word, capsys):
    with pytest.raises(SystemExit) as exit_:
        main.parse(["main", "--config=weak", word])
    assert exit_.value.code == 2 and f"unrecognized arguments: {word}" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", ["1,01", "1,99999999999999999999"])
def test_seeds_are_checked_before_the_first_is_trained(tmp_path, seeds):
    with pytest.raises(UserError, match="--seeds"):
        main_command.call_main("--config=weak", f"--workdir={tmp_path}", f"--seeds={seeds}")


def test_every_setting_has_one_owner_and_all_are_in_the_config():
    defaults = config_lib.to_dict(config_lib.Settings())
    config = config_lib.base().to_dict()
    assert config.pop("experiments") == {}
    assert config == defaults
    assert config_lib.experiments(config_lib.base())["experiment"] == config_lib.Settings()


# --- suites ------------------------------------------------------------------------------------


def suite(**teachers) -> ConfigDict:
    config = config_lib.base()
    for name, teacher in teachers.items():
        labels = "soft" if teacher else "weak"
        config.experiments[name] = ConfigDict({"teacher": teacher, "labels": labels})
    return config


def test_the_page_of_settings_is_that_of_the_dataclasses():
    """After a change: python -m psl_jax.settings_reference > docs/SETTINGS.md."""
    assert (ROOT / "docs" / "SETTINGS.md").read_text(encoding="utf-8") == settings_reference.page()


def test_help_explains_main_and_lists_flags_and_settings(capsys):
    with pytest.raises(SystemExit) as exit_:
        main.parse(["main", "--help"])
    text = capsys.readouterr().out
    assert not exit_.value.code and "An experiment has six stages." in text
    assert "--seeds N,N" in text
    for name, known in config_lib.KNOWN.items():
        assert known.help[0].isupper() or known.help.startswith(("tfds:", "own_data:", "sound"))
        assert f"- `{name}` (default `" in text


def test_teachers_come_before_whom_they_teach():
    chain = suite(a="b", b="c", c="zebra", zebra="", weak="")
    assert list(config_lib.experiments(chain)) == ["zebra", "weak", "c", "b", "a"]
    assert list(config_lib.experiments(suite(student="runs/teacher", weak=""))) == [
        "weak",
        "student",
    ]


def test_a_circle_of_teachers_is_named():
    with pytest.raises(UserError, match=r"need each other's labels in a circle: .*a.*b"):
        config_lib.experiments(suite(a="b", b="a"))


def test_a_setting_of_one_experiment_is_checked_by_its_full_name():
    config = suite(weak="")
    config_lib.set_nested(config.experiments.weak, {"train": {"epochs": 0}})
    with pytest.raises(UserError, match=r"config\.experiments\.weak\.train\.epochs is 0"):
        config_lib.experiments(config)


# --- what differs between a run folder and now ---------------------------------------------------


def flat(settings: config_lib.Settings) -> dict:
    return config_lib.stored_settings(config_lib.to_dict(settings), "here")


def differing(**changes) -> dict[Kind, list[str]]:
    (settings,) = config_lib.experiments(changed_config(**changes)).values()
    return config_lib.changed(flat(config_lib.Settings()), flat(settings))


def test_changes_by_kind():
    moved = {"data.data_dir": "/b", "train.checkpoint_every": 7}
    more = {"evaluate.segments": "whole", "data.eval_split": "test", "seed": 1}
    assert differing(**moved, **more) == {
        Kind.SCIENTIFIC: ["seed"],
        Kind.OPERATIONAL: sorted(moved),
        Kind.EVALUATION: ["data.eval_split", "evaluate.segments"],
    }


def test_folders_of_earlier_versions_are_understood():
    """What they do not know had its default; max_clip_seconds is clip_seconds."""
    now = flat(config_lib.Settings())
    old = config_lib.to_dict(config_lib.Settings())
    del old["relabel"], old["data"]["clip_seconds"]
    old["train"]["steps_per_dispatch"], old["evaluate"]["segment_seconds"] = 0, -1.0
    old["data"]["max_clip_seconds"] = 10.0
    assert config_lib.stored_settings(old, "here") == now
    old["data"]["max_clip_seconds"] = 4.0
    stored = config_lib.stored_settings(old, "here")
    assert config_lib.changed(stored, now)[Kind.SCIENTIFIC] == ["data.clip_seconds"]
    # Labels were computed in the type of the student.
    old |= {"labels": "soft", "model": old["model"] | {"dtype": "bfloat16"}}
    assert config_lib.stored_settings(old, "here")["relabel.dtype"] == "bfloat16"


def test_a_setting_that_there_is_no_longer_counts_as_scientific():
    now = flat(config_lib.Settings())
    assert config_lib.changed(now | {"gone": 3}, now)[Kind.SCIENTIFIC] == ["gone"]


def test_gaps_between_segments_are_refused():
    (one,) = config_lib.experiments(changed_config(segment_seconds=2.0, hop_seconds=2.5)).values()
    for hop in (2.5, 0.001):
        one = dataclasses.replace(one, hop_seconds=hop)
        with pytest.raises(
            UserError, match=rf"config\.hop_seconds is {hop}: expected 0\.05 to 2 s"
        ):
            setting_checks.training_segmentation(one)
    one = dataclasses.replace(one, hop_seconds=0.5)
    assert setting_checks.training_segmentation(one) == Segmentation(2.0, 0.5)
    assert setting_checks.training_segmentation(
        dataclasses.replace(one, hop_seconds=0.0)
    ) == Segmentation(2.0)
