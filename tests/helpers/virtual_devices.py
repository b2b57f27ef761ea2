"""Trains and relabels on one and on eight virtual devices: python virtual_devices.py FOLDER

A program of its own, as the number of devices is fixed when JAX starts. Writes FOLDER/1.npz and
FOLDER/8.npz: soft labels in float32, as users have them; and in float64 losses, weights and
gradients of examples in several orders. In float32 the rounding of a sum decides for some
activations on which side of a corner of relu6 they lie, and with it a gradient; in float64 hardly
ever.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable
from unittest import mock

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import numpy as np
import small_experiments
import small_mn
from synthetic_data import MemorySource, make_index

from psl_jax.audio.segments import Segmentation
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.networks import mn, mobilenetv2
from psl_jax.networks.architecture import Network, Variables
from psl_jax.networks.augmentation import Augmentation
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mn_frontend import MnFrontEnd
from psl_jax.networks.mobilenetv2 import fold
from psl_jax.runtime import parallel
from psl_jax.scoring.relabeling import TeacherIdentity, relabel
from psl_jax.scoring.scorer import Scorer
from psl_jax.training.step import Recipe, TeacherInStep, TrainState, init_state, train_program

CLASSES, BATCH, SAMPLES, STEPS, RATE = 5, 16, 4000, 2, 1e-4

# Fewer and narrower layers than usual, and short clips: much less to compile and to compute.
mobilenetv2.INVERTED_RESIDUALS = ((6, 24, 2, 2),)
mobilenetv2.NUM_HALVINGS = 2  # that are left
mn.TABLE = small_mn.SHALLOW

MASKS = {"time_masks": 2, "time_mask_frames": 10, "frequency_masks": 2}
TEACHER = Augmentation(gain_probability=0.5, polarity_probability=0.5, mixup_alpha=0.5, **MASKS)
RECIPES = {
    "teacher": Recipe(LogMel(80.0, "batch"), TEACHER, seed=1),
    # Labels are made; as on a GPU channels last, with BatchNorms' own gradients.
    "in_step": Recipe(seed=3, teacher=TeacherInStep(0.25, dtype="float64")),
    "mn": Recipe(MnFrontEnd(), seed=4),  # the other network
}
# In how many orders the examples come; in float64 all of them must agree.
ORDERS = {"teacher": 2, "in_step": 1, "mn": 1}
Created = tuple[Network, Variables]


def examples() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Audio [STEPS * BATCH, SAMPLES] of many loudnesses, lengths (a third short), soft labels."""
    rng, count = np.random.default_rng(0), STEPS * BATCH
    audio = rng.standard_normal((count, SAMPLES)) * rng.uniform(10, 5000, (count, 1))
    lengths = np.where(np.arange(count) % 3, SAMPLES, SAMPLES // 4).astype(np.int32)
    soft = rng.random((count, CLASSES)).astype(np.float16)
    return audio.clip(-32768, 32767).astype(np.int16) / 32768, lengths, soft.astype(np.float32)


def order(number: int) -> np.ndarray:
    """[STEPS, BATCH]: which examples each step is made of."""
    return np.random.default_rng(number).permutation(STEPS * BATCH).reshape(STEPS, BATCH)


Train = Callable[[np.ndarray], tuple[list[float], TrainState]]


def training(network: Network, variables: Variables, recipe: Recipe, num_devices: int) -> Train:
    """Trains on batches in a given order: the losses of its steps, and the state after them."""
    mesh = parallel.data_mesh(num_devices)
    platform = "cpu" if recipe.teacher is None else "gpu"  # writes other gradients
    with mock.patch.object(parallel, "platform_of", return_value=platform):
        program = train_program(network, recipe, mesh)
    teachers = [] if recipe.teacher is None else [parallel.replicate(fold(variables), mesh)]

    def train(steps: np.ndarray) -> tuple[list[float], TrainState]:
        state, losses = parallel.replicate(init_state(variables), mesh), []
        for chosen in steps:
            audio, lengths, labels = (array[chosen] for array in examples())
            batch = {"audio": audio, "num_samples": lengths, "labels": labels}
            rate = np.float32(RATE)
            state, values = program(state, parallel.put_batch(batch, mesh), rate, *teachers)
            losses.append(float(values["loss"]))
        return losses, state

    return train


def compared(losses: list[float], state: TrainState) -> dict:
    trees = {"weights": state.variables, "moments": state.optimizer.mu}
    leaves = jax.tree_util.tree_leaves_with_path(parallel.to_host(trees))
    return {"losses": losses} | {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def in_float64(networks: dict[str, Created], num_devices: int) -> dict:
    """What is compared of every recipe and order; networks: those of the recipes."""
    arrays = {}
    with jax.enable_x64(True):
        for name, recipe in RECIPES.items():
            network, variables = networks[name]
            wide = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
            recipe = dataclasses.replace(recipe, dtype="float64")
            train = training(network, wide, recipe, num_devices)
            for number in range(ORDERS[name]):
                steps = order(number)[: 1 if name == "in_step" else STEPS]  # 20 times as long each
                results = compared(*train(steps))
                arrays |= {f"{name} {number} {key}": value for key, value in results.items()}
    return arrays


def soft_labels(variables: Variables, num_devices: int, folder: pathlib.Path) -> dict:
    lengths = [SAMPLES * 2 + 3000, SAMPLES, 500] * 9 + [SAMPLES] * 2
    index = make_index([20, 9], lengths, num_classes=CLASSES)
    segmentation = Segmentation(SAMPLES / 16_000)
    scorer = Scorer(fold(variables), LogMel(), num_devices=num_devices)
    relabel(
        scorer,
        MemorySource(index),
        segmentation,
        folder / f"labels-{num_devices}",
        teacher=TeacherIdentity("teacher"),
        batch_size=BATCH - 3,  # does not divide over eight devices
    )
    labels = SoftLabels.open(folder / f"labels-{num_devices}", index, segmentation)
    return {f"shard {i}": labels.read_shard(i)[1] for i in range(2)}


def main(folder: pathlib.Path) -> None:
    network, variables = mobilenetv2.create(CLASSES, width=0.1)
    networks = dict.fromkeys(RECIPES, (network, variables)) | {"mn": mn.create(CLASSES, width=0.1)}
    teacher = small_experiments.able(network, variables)
    for num_devices in (1, 8):
        arrays = {"devices": parallel.data_mesh(num_devices).size}
        arrays |= soft_labels(teacher, num_devices, folder)
        arrays |= in_float64(networks, num_devices)
        np.savez(folder / f"{num_devices}.npz", **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
