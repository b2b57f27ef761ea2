"""Experiments of few steps on noise, and models to teach or to start from."""

import functools
import os
import pathlib

import jax
import numpy as np
import synthetic_data

from psl_jax import config as config_lib
from psl_jax.config import Settings
from psl_jax.experiments.experiment import Experiment
from psl_jax.networks.architecture import Network, Variables
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.layers import Context
from psl_jax.networks.mobilenetv2 import create
from psl_jax.networks.trained_model import ModelInfo
from psl_jax.runtime.run_files import Stage
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.weights import orbax_folder

CLASSES = ("class 0", "class 1", "class 2")  # of synthetic_data.make_index
SPLIT = "eval"


def sounds(lengths, seed: int = 0) -> list[np.ndarray]:
    """Tones in noise, both of changing loudness: int16 [length] each."""
    rng, found = np.random.default_rng(seed), []
    for length in lengths:
        loudness = np.repeat(rng.uniform(0, 1, (2, length // 4000 + 1)) ** 3, 4000, axis=1)
        tone = np.sin(rng.uniform(0.02, 2.5) * np.arange(length))
        mixed = loudness[0, :length] * tone + loudness[1, :length] * rng.normal(0, 0.3, length)
        found.append((8000 * mixed).clip(-32768, 32767).astype(np.int16))
    return found


@functools.cache
def _pass(network):
    """One pass in training, which takes the statistics of its batch."""

    def run(variables, audio, keys):
        return network.apply(variables, LogMel()(audio), Context(train=True), keys)[1]

    return jax.jit(run)


def able(network: Network, variables: Variables) -> Variables:
    """Running statistics of `sounds`, with which probabilities differ by what is heard."""
    audio = np.stack(sounds([16_000] * 8, seed=7))
    keys = jax.random.split(jax.random.key(0), len(audio))
    # In NumPy: JAX would compile a program for each shape.
    before, after = (
        jax.tree.map(np.asarray, stats)
        for stats in (variables.stats, _pass(network)(variables, audio, keys))
    )
    stats = jax.tree.map(lambda new, old: np.float32((new - 0.9 * old) / 0.1), after, before)
    classifier = {k: 30 * np.asarray(v) for k, v in variables.params["classifier"].items()}
    return Variables(variables.params | {"classifier": classifier}, stats)


def save_model(folder: pathlib.Path, classes=CLASSES, seed: int = 0, **info) -> pathlib.Path:
    network, variables = create(len(classes), 0.1, seed=seed)
    info = ModelInfo(tuple(classes), 0.1, 1.0, LogMel(top_db=80.0), **info)
    orbax_folder.save_model(folder / "averaged", able(network, variables), info.as_json())
    return folder


def write_data(folder: pathlib.Path, lengths=(16_000, 20_000, 9_000, 32_000)) -> pathlib.Path:
    """Two shards of four clips each; some end within a segment of a second."""
    index = synthetic_data.make_index([4, 4], [*lengths, *lengths], split=SPLIT)
    return synthetic_data.write_prepared(folder, index, sounds(index.num_samples))


def settings(data: pathlib.Path, /, **changes) -> Settings:
    """Three steps of four segments of a second."""
    config = config_lib.base()
    config.data.corpus, config.data.data_dir = "tfds", str(data)
    for split in ("train_split", "validation_split", "eval_split"):
        config.data[split] = SPLIT
    config.segment_seconds, config.train.batch_size, config.train.max_steps = 1.0, 4, 3
    config.model.width, config.model.dropout, config.train.learning_rate = 0.1, 0.2, 1e-2
    config.train.log_every = 1
    config_lib.set_nested(config, changes)
    (found,) = config_lib.experiments(config).values()
    return found


def run(found: Settings, folder: str | os.PathLike, stage: str = "train") -> Experiment:
    one = Experiment(found, folder, data_dir=found.data.data_dir)
    one.check()
    one.run(Stage(stage))
    return one


def last_variables(folder: pathlib.Path) -> Variables:
    with TrainingCheckpoints(folder / "checkpoints") as kept:
        return kept.load_variables(max(kept.steps()))
