"""All settings, with their defaults, and the check that a config holds no others.

The defaults are the paper's; where the published code differs, its choice is a setting. Values that
neither gives are marked "inferred".
"""

import difflib
import functools
import operator
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from psl_jax.runtime.errors import UserError

STUDENTS = {"psl10s": 10.0, "psl5s": 5.0, "psl2s": 2.0}


def base() -> ConfigDict:
    """Every setting. A config file starts from this or a function below and changes a few."""
    config = ConfigDict()
    config.name = "experiment"
    config.seed = 0
    config.num_devices = 0  # 0: all
    # Several experiments in one run: name -> the settings in which it differs. Empty: just one.
    config.experiments = ConfigDict()

    config.data = _data()
    config.labels = "weak"  # weak | soft
    config.segment_seconds = 10.0
    config.alpha = (
        1.0  # target = alpha * soft + (1 - alpha) * weak; the paper's table 3 uses 0 and 0.5
    )
    config.teacher = ""  # soft: a run folder, or the name of another experiment of the suite

    config.frontend = frontend = ConfigDict()
    frontend.top_db, frontend.top_db_over = 120.0, "clip"  # over: none | clip | batch
    frontend.fft = "auto"  # float64, exact in bands 100 dB under the loudest; float32 on a TPU
    config.model = ConfigDict({"width": 1.0, "dropout": 0.3, "dtype": "float32"})

    config.train = train = ConfigDict()
    train.batch_size = 32
    train.learning_rate = 1e-4  # the published code: 1e-3
    train.schedule = "constant"  # constant | polynomial (to 0 over all steps)
    train.decay_power = 2.0  # inferred
    train.epochs = 300
    train.max_steps = 0  # 0: as many as the epochs make
    train.sampling = "uniform"  # uniform | balanced (class queue) | weighted
    train.validate_every = 10_000  # steps, or an epoch if that is shorter
    train.checkpoint_every = 2_000  # steps; besides, one at each validation
    train.log_every = 20
    train.patience = 15  # validations without a better mAP; 0: no early stop
    train.best_checkpoints = 4  # averaged into the final model; the published code: 1
    train.window_clips = 2048  # clips shuffled at a time: two windows are in memory
    # 0: audio is streamed; n: the split is held in the devices' memory, up to n steps are made for
    # each dispatch, which ends where something is logged, validated or saved
    train.steps_per_dispatch = 0

    config.augment = augment = ConfigDict()  # 0: off. The teacher's: see `teacher`
    augment.gain_probability = 0.0
    augment.gain_db = (-18.0, 6.0)  # inferred
    augment.polarity_probability = 0.0
    augment.shift_probability = 0.0
    augment.shift_fraction = 0.5  # inferred: at most half the clip, rolling over
    augment.time_masks = 0
    augment.time_mask_frames = 60  # inferred
    augment.frequency_masks = 0
    augment.frequency_mask_bins = 8  # inferred
    augment.mixup_alpha = 0.0

    config.evaluate = ConfigDict()
    config.evaluate.segment_seconds = -1.0  # -1: as in training; 0: the whole clip, zero-padded
    config.evaluate.batch_size = 64  # segments; for relabeling too
    return config


def _data() -> ConfigDict:
    """Which clips, and where they are."""
    data = ConfigDict()
    data.corpus = (
        "tfds"  # soundscapes | own_data | tfds (prepared) | packed (.npz, without TensorFlow)
    )
    data.data_dir = ""  # default <workdir>/data
    data.source_dir = ""  # own_data: the folder with the CSVs and the audio
    data.max_clip_seconds = 10.0  # own_data: longer files are cut, and reported
    data.label_separator = ";"
    data.num_workers = 0  # 0: one a core
    data.full_clips, data.balanced_clips, data.eval_clips = 1200, 300, 300  # soundscapes
    data.seed = 0
    data.missing_labels = 0.3
    data.train_split = "balanced"
    data.validation_split = "balanced"  # paper, section 3.2
    data.eval_split = "eval"
    return data


def teacher() -> ConfigDict:
    """The machine annotator: weak labels, pseudo-balanced, augmented (paper, section 3.3)."""
    config = base()
    config.name = "teacher"
    apply(config, TEACHER)
    return config


def student(name: str, segment_seconds: float) -> ConfigDict:
    """A student on soft labels: no augmentation, uniform sampling (paper, section 3.3)."""
    config = base()
    config.name, config.labels, config.segment_seconds = name, "soft", segment_seconds
    config.teacher = "runs/teacher"
    return config


TEACHER: dict[str, Any] = {
    "data": {"train_split": "full"},
    "train": {"sampling": "balanced", "schedule": "polynomial", "epochs": 30, "patience": 0},
    # Probabilities, masks and the mixup strength are inferred: the paper names only the methods.
    "augment": {
        "gain_probability": 0.5,
        "polarity_probability": 0.5,
        "shift_probability": 0.5,
        "time_masks": 2,
        "frequency_masks": 2,
        "mixup_alpha": 0.5,
    },
}


def paper_suite(teacher_changes: dict | None = None) -> ConfigDict:
    """Teacher, weak baseline, PSL-10s, PSL-5s and PSL-2s: the paper's table 2."""
    suite = ConfigDict()
    suite.teacher = ConfigDict(TEACHER)
    apply(suite.teacher, teacher_changes or {})
    suite.weak = ConfigDict({"labels": "weak"})
    for name, seconds in STUDENTS.items():
        suite[name] = ConfigDict(
            {"labels": "soft", "segment_seconds": seconds, "teacher": "teacher"}
        )
    return suite


def apply(config: ConfigDict, changes: dict | ConfigDict) -> None:
    """Sets nested `changes` in `config`, adding keys that it lacks (a check comes later)."""
    for key, value in changes.items():
        if isinstance(value, dict | ConfigDict) and key in config:
            apply(config[key], value)
        else:
            with config.unlocked():
                config[key] = ConfigDict(value) if isinstance(value, dict) else value


def experiments(config: ConfigDict) -> dict[str, ConfigDict]:
    """The checked config of each experiment, in order; a single one goes by its own name.

    Raises UserError naming an unknown or ill-typed key and the nearest known one.
    """
    validate(config)
    result = {}
    for name, changes in config.experiments.items():
        one = ConfigDict(config.to_dict())
        one.experiments = ConfigDict()
        apply(one, changes.to_dict())
        one.name = name
        validate(one)
        result[name] = one
    return dict(sorted(result.items(), key=_rank)) or {config.name: config}


def _rank(item: tuple[str, ConfigDict]) -> tuple:
    """Teachers first, then weak labels, then long segments first: a ConfigDict keeps no order."""
    name, config = item
    return config.labels == "soft", name != "teacher", -config.segment_seconds, name


def validate(config: ConfigDict) -> None:
    """Raises UserError for keys that `base()` lacks, wrong types and impossible values."""
    known = base()
    _check(config, known, "")
    for name, changes in config.experiments.items():
        if not isinstance(changes, ConfigDict):
            raise UserError(f"experiments.{name} must be a dict of settings, not {changes!r}")
        _check(changes, known, f"experiments.{name}.", partial=True)
    for key, choices in _CHOICES.items():
        value = setting(config, key)
        if value not in choices:
            raise UserError(f"config.{key} is {value!r}, expected one of {', '.join(choices)}")
    for key in ("train.batch_size", "evaluate.batch_size", "segment_seconds", "model.width"):
        value = setting(config, key)
        if value <= 0:
            raise UserError(f"config.{key} is {value}, expected a number above 0")
    if config.train.steps_per_dispatch < 0:
        raise UserError(
            f"config.train.steps_per_dispatch is {config.train.steps_per_dispatch}, expected 0 "
            "(audio is streamed) or more (the split is held in the devices' memory)"
        )
    if not 0 <= config.alpha <= 1:
        raise UserError(f"config.alpha is {config.alpha}, expected a number from 0 to 1")


_CHOICES = {
    "data.corpus": ("soundscapes", "own_data", "tfds", "packed"),
    "labels": ("weak", "soft"),
    "frontend.top_db_over": ("none", "clip", "batch"),
    "frontend.fft": ("auto", "float32", "float64"),
    "model.dtype": ("float32", "bfloat16"),
    "train.schedule": ("constant", "polynomial"),
    "train.sampling": ("uniform", "balanced", "weighted"),
}


def _check(config: ConfigDict, known: ConfigDict, prefix: str, partial: bool = False) -> None:
    for key, value in config.items():
        if key not in known:
            raise UserError(unknown_key_message(prefix + key))
        expected = known[key]
        if prefix + key == "experiments":
            continue
        if isinstance(expected, ConfigDict):
            if not isinstance(value, ConfigDict):
                raise UserError(f"config.{prefix}{key} must be a group of settings, not {value!r}")
            _check(value, expected, f"{prefix}{key}.", partial)
        elif not _same_type(value, expected):
            kind = type(expected).__name__
            raise UserError(
                f"config.{prefix}{key} is {value!r} ({type(value).__name__}), expected {kind}, "
                f"such as {expected!r}"
            )
    missing = [] if partial else [key for key in known if key not in config]
    if missing:
        raise UserError(f"config.{prefix}{missing[0]} is missing; start from psl_jax.config.base()")


def _same_type(value: Any, expected: Any) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool)
    if isinstance(expected, float):
        return isinstance(value, int | float)
    if isinstance(expected, tuple):
        return isinstance(value, tuple | list) and len(value) == len(expected)
    return isinstance(value, type(expected))


def unknown_key_message(key: str) -> str:
    """Names an unknown key and the nearest known one."""
    names = setting_names()
    last = {name.split(".")[-1]: name for name in names}
    near = difflib.get_close_matches(key, names, 1, 0.6) or [
        last[n] for n in difflib.get_close_matches(key.split(".")[-1], list(last), 1, 0.6)
    ]
    hint = f" Did you mean config.{near[0]}?" if near else ""
    return f"config.{key} is not a setting.{hint} All of them are in psl_jax/config.py."


def _names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, ConfigDict):
            yield from _names(value, f"{prefix}{key}.")


def setting(config: ConfigDict, name: str) -> Any:
    """The value of a dotted name."""
    return functools.reduce(operator.getitem, name.split("."), config)


def setting_names() -> list[str]:
    """The dotted names of all settings and groups of settings."""
    return list(_names(base()))
