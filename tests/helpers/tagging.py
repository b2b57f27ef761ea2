"""A small model that hears differences, and what the tests of tagging share."""

import functools
import pathlib

import jax
import numpy as np

from psl_jax.networks import mobilenetv2
from psl_jax.networks.architecture import Variables
from psl_jax.networks.layers import Context
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.tagging.tagger import Tagger
from psl_jax.weights import orbax_folder

LABELS = ("dog", "siren", "Vehicle horn, car horn, honking", "rain", 'a "quoted" label', "bell")
WIDTH = 0.25


def thresholds(common: float, **own: float) -> tuple[float, ...]:
    """Of the classes in their order; those named have their own."""
    return tuple(own.get(label, common) for label in LABELS)


def recording(seconds: float, seed: int = 0) -> np.ndarray:
    """int16 [samples] with bursts, tones, silence and noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16_000)) / 16_000
    sound = 0.05 * rng.standard_normal(len(time))
    for start in np.arange(0, seconds, 0.7):
        inside = (time >= start) & (time < start + rng.uniform(0.1, 0.6))
        pitch = rng.uniform(100, 6000)
        sound = sound * np.where(inside, rng.choice([0.0, 1.0, 5.0]), 1)
        sound = sound + inside * rng.uniform(0, 0.4) * np.sin(2 * np.pi * pitch * time)
    return (np.clip(sound, -1, 1) * 32767).astype(np.int16)


def of_blocks(make):
    """Makes it once for the blocks that networks have at the time."""
    made = functools.cache(lambda blocks: make())
    return lambda: made(mobilenetv2.INVERTED_RESIDUALS)


@of_blocks
def model() -> Model:
    """Random weights, with the classifier stretched so that scores differ over time."""
    network, variables = mobilenetv2.create(len(LABELS), WIDTH, seed=3)
    params, stats = (jax.tree.map(np.array, x) for x in variables)
    stats = jax.tree_util.tree_map_with_path(
        lambda path, x: np.full_like(x, 0.3) if path[-1].key == "var" else x, stats
    )
    info = ModelInfo(LABELS, WIDTH, 2.0, name="small", origin={"averaged_steps": [1]})
    plain = Tagger(Model(network, Variables(params, stats), info))
    embedding = plain.tag(recording(8.0), 16_000, embeddings=True).frame_embeddings
    kernel = np.random.default_rng(0).standard_normal((embedding.shape[1], len(LABELS)))
    logits = embedding @ kernel
    scale = 2.5 / logits.std(axis=0)
    params["classifier"]["kernel"] = (kernel * scale).astype(np.float32)
    params["classifier"]["bias"] = (-logits.mean(axis=0) * scale - 0.5).astype(np.float32)
    return Model(network, Variables(params, stats), info)


@of_blocks
def tagger() -> Tagger:
    return Tagger(model())


@of_blocks
def _network_program():
    small = model()

    @jax.jit
    def run(audio):
        return small.network.apply(small.variables, tagger().front_end(audio), Context())[0]

    return run


def network_alone(audio: np.ndarray) -> np.ndarray:
    """Frame scores [frames, classes] of the network on an array of exactly this length."""
    return np.asarray(_network_program()(audio[None]))[0]


def save(folder: pathlib.Path) -> str:
    """Writes the model as a finished run and returns its folder."""
    small = model()
    orbax_folder.save_model(folder / "averaged", small.variables, small.info.as_json())
    return str(folder)
