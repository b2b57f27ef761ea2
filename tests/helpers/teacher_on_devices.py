"""Labels that a teacher makes inside the step, on four devices: FILE.npz

A program of its own, as the number of devices is fixed when JAX starts.
"""

import os
import sys
import tempfile

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax
import numpy as np
import small_experiments
import synthetic_data

from psl_jax.audio.segments import Segmentation
from psl_jax.data import batches
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.segment_loader import Segments
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.training_order import TrainingOrder
from psl_jax.networks import mobilenetv2
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mobilenetv2 import fold
from psl_jax.runtime import parallel
from psl_jax.scoring.relabeling import TeacherIdentity, relabel
from psl_jax.scoring.scorer import Scorer
from psl_jax.training.step import (
    Recipe,
    TeacherInStep,
    init_state,
    taught_labels,
    train_program,
)

mobilenetv2.INVERTED_RESIDUALS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2))
mobilenetv2.NUM_HALVINGS = 3  # that are left
SEGMENTATION = Segmentation(0.5)


def in_step(how: TeacherInStep, network, batch) -> np.ndarray:
    mesh = parallel.data_mesh(4)

    def label(network, batch):
        return taught_labels(how, "cpu", network, batch)

    specs = (parallel.REPLICATED, parallel.SPLIT)
    program = parallel.data_parallel(label, mesh, specs, parallel.SPLIT, fast_math=True)
    names = ("audio", "num_samples", "labels")
    placed = parallel.put_batch({name: batch[name] for name in names}, mesh)
    return np.asarray(program(parallel.replicate(network, mesh), placed))


def loss(recipe: Recipe, network, variables, batch, *teacher) -> float:
    """Of one step on four devices."""
    mesh = parallel.data_mesh(4)
    names = ("audio", "num_samples", "labels")
    _, values = train_program(network, recipe, mesh)(
        parallel.replicate(init_state(variables), mesh),
        parallel.put_batch({name: batch[name] for name in names}, mesh),
        np.float32(1e-3),
        *(parallel.replicate(one, mesh) for one in teacher),
    )
    return float(values["loss"])


def main(path: str) -> None:
    index = synthetic_data.make_index([5, 3], [20_000, 8_000, 6_000, 13_000] * 2)
    source = synthetic_data.MemorySource(index, small_experiments.sounds(index.num_samples))
    network, variables = mobilenetv2.create(index.num_classes, 0.1, seed=3)
    variables, logmel = small_experiments.able(network, variables), LogMel(top_db=80.0)
    batch = next(batches.train_batches(Segments(source, SEGMENTATION), TrainingOrder(16, 0)))
    batch = jax.tree.map(np.copy, batch)
    arrays = {"weak": batch["labels"], "padded": batch["num_samples"] < 8_000}
    for count_padding in (False, True):
        scorer = Scorer(fold(variables), logmel, num_devices=1, count_padding=count_padding)
        with tempfile.TemporaryDirectory() as folder:
            relabel(
                scorer,
                source,
                SEGMENTATION,
                folder,
                teacher=TeacherIdentity("t"),
                batch_size=7,
                rule=LabelRule(count_padding=count_padding),
            )
            labels = SoftLabels.open(folder, index, SEGMENTATION)
            stored = labels.gather(np.arange(len(index)))[batch["clip"], batch["segment"]]
        arrays[f"stored {count_padding}"] = stored
        how = TeacherInStep(1.0, logmel, count_padding=count_padding)
        arrays[f"4 {count_padding}"] = in_step(how, fold(variables), batch)
    arrays["4 mixed"] = in_step(TeacherInStep(0.25, logmel), fold(variables), batch)
    student = mobilenetv2.create(index.num_classes, 0.1, dropout=0.0)
    recipe = Recipe(teacher=TeacherInStep(1.0, logmel))
    arrays["loss with teacher"] = loss(recipe, *student, batch, fold(variables))
    arrays["loss on labels"] = loss(Recipe(), *student, batch | {"labels": arrays["4 False"]})
    arrays["loss on weak labels"] = loss(Recipe(), *student, batch)
    np.savez(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
