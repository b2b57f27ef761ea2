"""All settings together, as ml-collections configs for the command line and as dataclasses for us.

The defaults are the paper's; where the published code differs, its choice is a setting. Values that
neither gives are marked "our choice".
"""

import dataclasses
import difflib
import graphlib
from collections.abc import Mapping
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from psl_jax.audio.segments import MIN_SEGMENT_SECONDS, SAMPLE_RATE
from psl_jax.data.settings import DataSettings
from psl_jax.networks.architecture import Architecture, FrontEnd, NetworkSettings
from psl_jax.networks.augmentation import Augmentation
from psl_jax.networks.available import ARCHITECTURES
from psl_jax.networks.frontend import WINDOW, LogMel
from psl_jax.networks.trained_model import ModelInfo
from psl_jax.runtime import files, removed_settings
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.settings import Kind, check, flatten, list_settings, operational, read, setting
from psl_jax.scoring.settings import EvaluateSettings, RelabelSettings
from psl_jax.training.settings import TrainSettings

MOST_SECONDS = 3600  # of a segment
WINDOW_SECONDS = WINDOW / SAMPLE_RATE  # of the front end: a shorter segment has no whole one
MOST_SEED = 2**63 - 1
STUDENTS = {"psl10s": 10.0, "psl5s": 5.0, "psl2s": 2.0}


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of one experiment."""

    name: str = operational("experiment", help="Name of the experiment, in tables and reports")
    seed: int = setting(
        0,
        least=0,
        most=MOST_SEED,
        help="Seed of the initial weights, the training order, augmentation and dropout",
    )
    labels: str = setting(
        "weak",
        choices=("weak", "soft"),
        help="What the network learns from: the clips' weak labels, or a teacher's soft labels of "
        "their segments",
    )
    segment_seconds: float = setting(
        10.0,
        least=WINDOW_SECONDS,
        most=MOST_SECONDS,
        help="Length in seconds of the segments that clips are cut into for training",
    )
    hop_seconds: float = setting(
        0.0,
        least=0,
        most=MOST_SECONDS,
        help="Seconds from the start of one segment to the start of the next; 0: the length of a "
        "segment, so that segments do not overlap",
    )
    shortest_segment_seconds: float = setting(
        MIN_SEGMENT_SECONDS,
        least=0,
        most=MOST_SECONDS,
        help="Shortest remainder at a clip's end that becomes a padded segment, in seconds; "
        "shorter ones are dropped; 0: none is dropped, as in the published code",
    )
    alpha: float = setting(
        1.0,
        least=0,
        most=1,
        help="Share of soft labels in the training target: alpha * soft + (1 - alpha) * weak; the "
        "paper's table 3 also uses 0 and 0.5",
    )
    teacher: str = operational(
        "",
        help="Model whose soft labels the network learns from: a run folder, another tagger "
        "(docs/TEACHERS.md), or another experiment of the suite; empty: soft_labels_dir has them",
    )
    init_from: str = operational(
        "",
        help="Finished model whose weights training starts from (run, export, .pt or mn04); also "
        "fixes network, width and front end. The classifier is kept if classes are the same; "
        "empty: random weights",
    )
    init_class_map: str = setting(
        "",
        help="Which rows of init_from's classifier are kept where the classes differ: names: "
        "those of equal names; or those that a CSV class,teacher_class pairs; empty: none",
    )
    soft_labels_dir: str = operational(
        "",
        help="Folder of the soft labels, which several runs may share; empty: soft_labels in the "
        "run folder",
    )
    corrections: str = operational(
        "",
        help="CSV files of psl-jax review, with commas between; their decisions override labels "
        "in training, validation and evaluation",
    )
    data: DataSettings = DataSettings()
    frontend: LogMel = LogMel()
    model: NetworkSettings = NetworkSettings()
    train: TrainSettings = TrainSettings()
    augment: Augmentation = Augmentation()
    relabel: RelabelSettings = RelabelSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    def with_network(self, info: ModelInfo) -> "Settings":
        """The same settings for a network of the kind, width and front end of a model."""
        model = dataclasses.replace(self.model, network=info.network, width=info.width)
        return dataclasses.replace(self, model=model, frontend=info.logmel)

    @property
    def uses_soft_labels(self) -> bool:
        """With alpha = 0 the weak labels are the whole target: a teacher would work for nothing."""
        return self.labels == "soft" and self.alpha > 0

    @property
    def teaches_in_step(self) -> bool:
        """Whether the teacher labels inside the training step."""
        return self.uses_soft_labels and self.relabel.when == "in_step"

    @property
    def augmentation(self) -> Augmentation:
        """What of `augment` the network trains with."""
        return self.augment.for_width(self.model.width)

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.model.network]

    @property
    def front_end(self) -> FrontEnd:
        return self.architecture.front_end(self.frontend)


EQUAL_NAMES = "names"  # as init_class_map
KNOWN = dict(list_settings(Settings))


# --- Configs: what the files in configs/ return ------------------------------------------------


def base() -> ConfigDict:
    """Every setting. A config file starts from this or a function below and changes a few."""
    # Several experiments in one run: name -> the settings in which it differs. Empty: just one.
    return ConfigDict(to_dict(Settings()) | {"experiments": {}})


def teacher() -> ConfigDict:
    """The machine annotator: weak labels, pseudo-balanced, augmented (paper, section 3.3)."""
    config = base()
    config.name = "teacher"
    set_nested(config, TEACHER)
    return config


def student(name: str, segment_seconds: float, follow: str = "paper") -> ConfigDict:
    """A student on soft labels: no augmentation, uniform sampling (paper, section 3.3).

    follow: "paper", or "code" where the published code differs from it. Raises UserError.
    """
    if follow not in ("paper", "code"):
        raise UserError(f"{name}.py:{follow} is unknown: give paper or code after the :")
    config = base()
    config.name, config.labels, config.segment_seconds = name, "soft", segment_seconds
    config.teacher = "runs/teacher"
    if follow == "code":
        set_nested(config, PUBLISHED_CODE)
    return config


# In which settings the published code differs from the paper.
PUBLISHED_CODE: dict[str, Any] = {
    "shortest_segment_seconds": 0.0,  # 0.06 s at a clip's end become a padded segment
    "data": {"train_split": "balanced", "validation_split": "balanced"},  # against weak labels
    "frontend": {"top_db_over": "batch"},
    "model": {"count_padding": True},
    "train": {"learning_rate": 1e-3, "best_checkpoints": 1},
    "relabel": {"when": "in_step", "count_padding": True},
    "evaluate": {"segments": "whole"},
}


# A new classifier on EfficientAT's published network.
FROM_MN04: dict[str, Any] = {
    "init_from": "mn04",
    "data": {"sample_rate": 32_000},
    "model": {"network": "mn", "width": 0.4, "dropout": 0.2},
    # The classifier alone takes minutes; training all gave less on 240 clips (docs/RESULTS.md).
    "train": {"learning_rate": 1e-3, "trainable": "classifier"},
    "augment": {"min_width": 0.0},
}


TEACHER: dict[str, Any] = {
    "data": {"train_split": "full"},
    "train": {"sampling": "balanced", "schedule": "polynomial", "epochs": 30, "patience": 0},
    # Probabilities, masks and the mixup strength are our choice: the paper names only the methods.
    "augment": {
        "gain_probability": 0.5,
        "polarity_probability": 0.5,
        "shift_probability": 0.5,
        "time_masks": 2,
        "frequency_masks": 2,
        "mixup_alpha": 0.5,
    },
}


def set_nested(config: ConfigDict, changes: dict[str, Any] | ConfigDict) -> None:
    """Sets nested `changes` in `config`, adding keys that it lacks (a check comes later)."""
    with config.unlocked():
        config.update(changes)


# --- From a config to settings -----------------------------------------------------------------


def experiments(config: ConfigDict) -> dict[str, Settings]:
    """The settings of each experiment, teachers before their students; a single one by its name.

    Raises UserError naming an unknown or ill-typed key and the nearest known one, a value out of
    its range, or experiments that need each other in a circle.
    """
    values = config.to_dict()
    suite = values.pop("experiments", {})
    flat = dict(flatten(values))
    common = _read_flat(flat)
    teachers = {
        changes.get("teacher") for changes in suite.values() if isinstance(changes, Mapping)
    }
    if common.teacher and common.teacher not in suite and "teacher" not in teachers:
        suite = {name: changes for name, changes in suite.items() if name != "teacher"}
    result = {}
    for name, changes in suite.items():
        if not isinstance(changes, Mapping):
            raise UserError(f"experiments.{name} must be a dict of settings, not {changes!r}")
        own_values = dict(flatten(changes))
        for key, value in own_values.items():
            if key not in KNOWN:
                raise UserError(unknown_key_message(f"experiments.{name}.{key}"))
            check(f"experiments.{name}.{key}", value, KNOWN[key])
        settings = _read_flat(flat | own_values | {"name": name})
        _check_together(settings, changes, prefix=f"experiments.{name}.")
        result[name] = dataclasses.replace(
            settings,
            # The teacher that a suite gives to all is nothing to those on weak labels.
            teacher=settings.teacher if settings.labels == "soft" else "",
        )
    if not result:
        _check_together(common, values)
    return _in_order(result) or {common.name: common}


def _read_flat(values: Mapping[str, Any]) -> Settings:
    for name in values:
        if name not in KNOWN:
            raise UserError(unknown_key_message(name))
    if missing := [name for name in KNOWN if name not in values]:
        raise UserError(f"config.{missing[0]} is missing; start from psl_jax.config.base()")
    return read(Settings, traverse_util.unflatten_dict(values, sep="."))


def _check_together(settings: Settings, given: Mapping[str, Any], *, prefix: str = "") -> None:
    """Raises UserError where settings are in range each and mean nothing together.

    given: those that the experiment has of its own; others it may have of its suite.
    """
    low, high = settings.augment.gain_db
    if low > high:
        raise UserError(
            f"config.{prefix}augment.gain_db is {(low, high)}: expected the lower gain first, as "
            f"in {(high, low)}"
        )
    if settings.init_class_map and not settings.init_from and "init_class_map" in given:
        raise UserError(
            f"config.{prefix}init_class_map is {settings.init_class_map!r} and init_from is empty: "
            "give the model whose classifier it maps, or leave it out"
        )
    if settings.labels == "weak" and settings.alpha != 1 and "alpha" in given:
        raise UserError(
            f"config.{prefix}alpha is {settings.alpha:g} and labels is weak: it mixes soft labels "
            "with weak ones. Give labels=soft, or leave alpha at 1"
        )
    if settings.evaluate.segments not in ("training", "whole"):
        try:
            seconds = float(settings.evaluate.segments)
        except ValueError:
            seconds = 0.0
        if not WINDOW_SECONDS <= seconds <= MOST_SECONDS:
            raise UserError(
                f"config.{prefix}evaluate.segments is {settings.evaluate.segments!r}: expected "
                f"training, whole, or {WINDOW_SECONDS:g} s (a window of the front end) to "
                f"{MOST_SECONDS:g} s"
            )


def _in_order(suite: dict[str, Settings]) -> dict[str, Settings]:
    """Puts teachers before the experiments that need them.

    Of experiments that may come next, those on weak labels and with long segments go first.
    """
    needs = {name: {settings.teacher} & suite.keys() for name, settings in suite.items()}
    needed = set().union(*needs.values())

    def rank(name: str) -> tuple[Any, ...]:  # a ConfigDict keeps no order
        settings = suite[name]
        return settings.labels == "soft", name not in needed, -settings.segment_seconds, name

    sorter = graphlib.TopologicalSorter(needs)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise UserError(
            f"these experiments need each other's labels in a circle: {circle}"
        ) from error
    ordered: dict[str, Settings] = {}
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=rank, reverse=True)
        first = ready.pop()
        sorter.done(first)
        ordered[first] = suite[first]
    return ordered


# --- Settings of a run folder ------------------------------------------------------------------


def to_dict(settings: Settings) -> dict[str, Any]:
    """Nested dicts: what config.json holds."""
    return dataclasses.asdict(settings)


def stored_settings(stored: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The settings of a config.json by dotted name; those that it does not know had their default.

    Raises UserError where the folder `where` was made with what was removed since.
    """
    values = {removed_settings.RENAMED.get(name, name): value for name, value in flatten(stored)}
    removed_settings.check(values, where)
    if values.get("labels") == "soft" and "model.dtype" in values:
        values.setdefault("relabel.dtype", values["model.dtype"])  # of 0.1.0, which had one dtype
    defaults = files.as_json({name: known.default for name, known in KNOWN.items()})
    removed = removed_settings.REMOVED
    return defaults | {name: value for name, value in values.items() if name not in removed}


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[Kind, list[str]]:
    """Names of the settings that differ between two `stored_settings`, by kind."""
    names = [n for n in sorted(before.keys() | after.keys()) if before.get(n) != after.get(n)]
    kinds = {name: KNOWN[name].rule.kind if name in KNOWN else Kind.SCIENTIFIC for name in names}
    return {kind: [name for name in names if kinds[name] is kind] for kind in Kind}


def unknown_key_message(key: str) -> str:
    """Names an unknown key and the nearest known one, or says that it was removed."""
    if removed := removed_settings.message(key):
        return removed
    if key.partition("[")[0] in KNOWN:
        name = key.partition("[")[0]
        return f"config.{key}: give all of it, as in --config.{name}='{KNOWN[name].default}'"
    # All settings and groups of settings.
    groups = [field.name for field in dataclasses.fields(Settings) if field.name not in KNOWN]
    names = [*groups, *KNOWN, "experiments"]
    if key in names:
        return f"config.{key} is a group of settings: give one of them, as config.{key}.NAME"
    last = {name.split(".")[-1]: name for name in names}
    near = difflib.get_close_matches(key, names, 1, 0.6) or [
        last[n] for n in difflib.get_close_matches(key.split(".")[-1], list(last), 1, 0.6)
    ]
    hint = f" Did you mean config.{near[0]}?" if near else ""
    return f"config.{key} is not a setting.{hint} psl-jax main --help lists all."
