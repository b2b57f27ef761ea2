"""The finished model that an experiment starts from: `config.init_from`."""

import os
from collections.abc import Sequence

from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mobilenetv2 import Variables
from psl_jax.networks.trained_model import Model
from psl_jax.runtime.errors import UserError
from psl_jax.weights.load_model import load_model


class StartModel:
    """A model that experiments start from; a finished one is read once.

    Attributes:
      init_from: its name, the setting's value.
      is_trained_here: whether it is another experiment of the suite, which may yet be trained.
    """

    def __init__(self, init_from: str, run_dir: str | os.PathLike[str] | None = None):
        """run_dir: where the experiment `init_from` of the suite lies."""
        self.init_from, self.is_trained_here = init_from, run_dir is not None
        self._path = run_dir or init_from
        self._model: Model | None = None

    def load(self) -> Model:
        """The model. Raises UserError naming the setting."""
        if self._model is not None:
            return self._model
        try:
            model = load_model(self._path)
        except UserError as error:
            raise UserError(f"config.init_from is {self.init_from!r}: {error}") from error
        if not self.is_trained_here:
            self._model = model
        return model

    @property
    def network_form(self) -> tuple[float, LogMel]:
        """Width and front end of its network."""
        info = self.load().info
        return info.width, info.logmel


def started_variables(
    variables: Variables, start: Model, *, classes: Sequence[str], output: str
) -> Variables:
    """The arrays of `start`; of `variables` the classifier, where classes or output are others."""
    params = dict(start.variables.params)
    if start.classes != tuple(classes) or start.info.output != output:
        params["classifier"] = variables.params["classifier"]
    return Variables(params, start.variables.stats)
