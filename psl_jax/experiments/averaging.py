"""The model of a finished training: the mean of its best checkpoints."""

import pathlib
from collections.abc import Sequence

from psl_jax import config as config_lib
from psl_jax.config import Settings
from psl_jax.networks.trained_model import ModelInfo
from psl_jax.runtime import files
from psl_jax.runtime.run_files import CHECKPOINTS
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.weights import orbax_folder


def average(run_dir: pathlib.Path, settings: Settings, classes: Sequence[str]) -> None:
    """Writes the mean of the best checkpoints of a run as its model; all processes come here."""
    with TrainingCheckpoints(run_dir / CHECKPOINTS, settings.train.best_checkpoints) as kept:
        variables, steps = kept.average_best()
    info = ModelInfo(
        classes=tuple(classes),
        width=settings.model.width,
        segment_seconds=settings.segment_seconds,
        logmel=settings.frontend,
        name=settings.name,
        output=settings.model.output,
        origin={
            "averaged_steps": steps,
            "config_digest": files.json_digest(config_lib.to_dict(settings)),
        },
    )
    orbax_folder.save_model(run_dir / orbax_folder.MODEL_FOLDER, variables, info.as_json())
