"""The finished model that an experiment starts from: `config.init_from`."""

import os
from collections.abc import Sequence

import numpy as np

from psl_jax.config import EQUAL_NAMES
from psl_jax.networks.architecture import Variables
from psl_jax.networks.class_lists import match_classes
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.trained_model import Model
from psl_jax.runtime.errors import UserError
from psl_jax.teachers.open_teacher import parse_name
from psl_jax.weights.load_model import load_model


class StartModel:
    """A model that experiments start from; a finished one is read once."""

    def __init__(self, init_from: str, run_dir: str | os.PathLike[str] | None = None):
        """run_dir: where the experiment `init_from` of the suite lies, which may yet be trained."""
        self.init_from, self._run_dir = init_from, run_dir
        self.is_trained_here = run_dir is not None
        self._model: Model | None = None

    def load(self) -> Model:
        """The model. Raises UserError naming the setting."""
        if self._model is not None:
            return self._model
        try:
            model = load_model(self._run_dir or _find_place(self.init_from))
        except UserError as error:
            raise UserError(f"config.init_from is {self.init_from!r}: {error}") from error
        if not self.is_trained_here:
            self._model = model
        return model

    @property
    def network_form(self) -> tuple[str, float, LogMel]:
        """Network, width and front end."""
        info = self.load().info
        return info.network, info.width, info.logmel


def _find_place(init_from: str) -> str:
    """The file or folder of a name, which may be that of a teacher of our networks: mn:FILE."""
    kind, where = parse_name(init_from)
    if kind not in ("run", "mn"):
        raise UserError("expected one model of psl_jax's networks")
    return where


def started_variables(
    variables: Variables,
    start: Model,
    *,
    classes: Sequence[str],
    output: str,
    class_map: str = "",
) -> Variables:
    """The arrays of `start`; of `variables` the classifier, where classes or output are others.

    class_map: see `Settings.init_class_map`; a class of several has the mean of their rows.
    """
    params = dict(start.variables.params)
    if start.info.output != output:
        params["classifier"] = variables.params["classifier"]
    elif start.classes != tuple(classes):
        fresh = {name: np.array(array) for name, array in variables.params["classifier"].items()}
        if class_map:
            path = "" if class_map == EQUAL_NAMES else class_map
            columns = match_classes(start.classes, classes, start.info.name, path, "drop")
            for number, places in enumerate(columns):
                for name, array in start.variables.params["classifier"].items():
                    if places:
                        fresh[name][..., number] = np.asarray(array)[..., places].mean(axis=-1)
        params["classifier"] = fresh
    return Variables(params, start.variables.stats)
