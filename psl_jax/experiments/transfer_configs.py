"""Configs of transfers: a finished network on other data, as in the paper's table 5."""

import copy
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from psl_jax import config as config_lib


class Target(NamedTuple):
    """Data that networks are transferred to, prepared; and what the paper measures there."""

    corpus: str
    train: str
    validation: str
    evaluation: str
    measure: str  # a key of metrics.json


TARGETS = {
    "fsd50k": Target("fsd50k", "train", "val", "eval", "mAP"),
    # Without a validation split of their own: as in the paper's other experiments.
    "fsd2018": Target("fsdkaggle2018", "train", "train", "test", "mAP_at_3"),
    "fsd2019_curated": Target("fsdkaggle2019", "train_curated", "train_curated", "test", "lwlrap"),
    "fsd2019_noisy": Target("fsdkaggle2019", "train_noisy", "train_noisy", "test", "lwlrap"),
}
MODELS = {"ma": 10.0, "psl2s": 2.0}  # seconds of the segments
MEASURES = {f"{m}_{name}": target.measure for name, target in TARGETS.items() for m in MODELS}
REFERENCES = {f"psl2s_{name}": f"ma_{name}" for name in TARGETS}

# The paper leaves learning rate, length and output open.
TRAINING: dict[str, Any] = {
    "labels": "weak",
    "train": {"learning_rate": 1e-3, "epochs": 100},
    "evaluate": {"segments": "whole"},
}
CLASSIFIER: dict[str, Any] = {"train": {"trainable": "classifier"}}


def make_config(target: str) -> ConfigDict:
    """A new classifier on the frozen network, all of it trained, and the same from scratch."""
    result = config_lib.base()
    result.name = target
    config_lib.set_nested(result, TRAINING)
    result.data.update(_splits(target))
    add_three_ways(result)
    return result


def make_fold_config(corpus: str, segment_seconds: float) -> ConfigDict:
    """The same for a corpus of folds, of which --folds says which are evaluated.

    One that is given no --folds evaluates the first and trains on the second.
    """
    result = config_lib.base()
    result.name, result.segment_seconds = corpus, segment_seconds
    config_lib.set_nested(result, TRAINING)
    result.data.update({"corpus": corpus, "train_split": "fold2", "validation_split": "fold2"})
    result.data.eval_split = "fold1"
    result.train.update({"batch_size": 16, "learning_rate": 2e-3, "epochs": 15})
    result.train.schedule = "polynomial"
    add_three_ways(result)
    result.experiments.probe.train.epochs = 60  # steps on features cost next to nothing
    return result


def add_three_ways(config: ConfigDict) -> None:
    """The experiments of a transfer beside those from scratch."""
    config.experiments = ConfigDict(
        {"probe": copy.deepcopy(CLASSIFIER), "finetuned": {}, "scratch": {"init_from": ""}}
    )


def _splits(target: str) -> dict[str, Any]:
    splits = TARGETS[target]
    return {
        "corpus": "tfds",
        "train_split": splits.train,
        "validation_split": splits.validation,
        "eval_split": splits.evaluation,
    }


def table5() -> ConfigDict:
    """The teacher (MA) and PSL-2s with new classifiers, trained on segments of 10 and 2 s.

    Both are finished models, config.teacher and config.init_from. Each data set lies in the folder
    of its corpus in data_dir, as `prepare` puts it there.
    """
    suite = config_lib.base()
    suite.name = "table5"
    config_lib.set_nested(suite, TRAINING)
    for name, target in TARGETS.items():
        for model, seconds in MODELS.items():
            probe = ConfigDict(copy.deepcopy(CLASSIFIER) | {"segment_seconds": seconds})
            probe.data = ConfigDict(_splits(name) | {"data_set": target.corpus})
            if model == "ma":
                probe.init_from = suite.get_ref("teacher")
            suite.experiments[f"{model}_{name}"] = probe
    return suite
