"""Orbax checkpoints: the latest, the best by mAP, their average; and finished models."""

import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from psl_jax import files, flat_state, parallel
from psl_jax.errors import UserError
from psl_jax.mobilenetv2 import Network, Variables, create

MODEL_FILE = "model.json"
MODEL_FOLDER = "averaged"
_WEIGHTS = "weights"
_METRIC = "mAP"
_ARRAYS = "arrays"


class TrainingCheckpoints:
    """The checkpoints of a run: always the latest one, and the `best` ones by validation mAP."""

    def __init__(self, directory: str | os.PathLike, best: int = 4):
        self.directory = pathlib.Path(os.path.abspath(directory))
        self.best = best
        policies = ocp.training.preservation_policies
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(1),
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[_METRIC],
                    n=best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=keep,
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "TrainingCheckpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with _plain_disk_errors(self.directory):  # a failed save is raised here once more
            self._checkpointer.close()

    def save(self, step: int, state: Any, mean_average_precision: float | None = None) -> None:
        """Saves `state`; only with an mAP it can become one of the best.

        Raises UserError where it cannot be written; the earlier checkpoints are kept.
        """
        metrics = None if mean_average_precision is None else {_METRIC: mean_average_precision}
        flat, index = flat_state.flatten(parallel.to_host(state))
        with _plain_disk_errors(self.directory):
            self._checkpointer.save(step, flat, metrics=metrics, custom_metadata={_ARRAYS: index})

    def restore(self, state: Any) -> Any:
        """The latest checkpoint, placed like `state`; `state` itself where there is none.

        Raises UserError where it holds the state of another network.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return state
        flat, index = self._load(latest.step)
        if index != flat_state.flatten(parallel.to_host(state))[1]:
            raise UserError(
                f"the checkpoint of step {latest.step} in {self.directory} is of another network "
                "or an older version; give another --workdir, or delete that folder"
            )
        leaves = flat_state.split(flat, index)
        return jax.tree.map(
            lambda x, new: jax.device_put(new, x.sharding),
            state,
            jax.tree.unflatten(jax.tree.structure(state), leaves),
        )

    def _load(self, step: int) -> tuple[dict[str, np.ndarray], list]:
        """The long arrays, and what lies where in them."""
        saved = self._checkpointer.metadata(step)
        index = (saved.custom_metadata or {}).get(_ARRAYS, [])
        loaded = self._checkpointer.load(step, _on_this_host(saved.metadata))
        return {key: np.asarray(array) for key, array in loaded.items()}, index

    def steps(self) -> list[int]:
        return [info.step for info in self._checkpointer.checkpoints]

    def best_steps(self) -> list[int]:
        """Steps of the best checkpoints, the best first; of equals the later is the better."""
        scored = [
            (info.metrics[_METRIC], info.step)
            for info in self._checkpointer.checkpoints
            if info.metrics
        ]
        return [step for _, step in sorted(scored, reverse=True)[: self.best]]

    def load_variables(self, step: int) -> Variables:
        """The network's variables at `step`, as NumPy arrays."""
        variables = flat_state.nested(*self._load(step))["variables"]
        return Variables(int_keys(variables["params"]), int_keys(variables["stats"]))

    def average_best(self) -> tuple[Variables, list[int]]:
        """Mean of the best checkpoints' parameters and BatchNorm statistics, taken in float64."""
        steps = self.best_steps()
        if not steps:
            raise UserError(f"{self.directory} holds no validated checkpoint to average")
        return average([self.load_variables(step) for step in steps]), steps


def average(variables: list[Variables]) -> Variables:
    """Mean of several sets of variables, taken in float64 and returned in the original type."""

    def mean(*arrays):
        total = np.sum([np.asarray(array, np.float64) for array in arrays], axis=0)
        return np.asarray(total / len(arrays), np.asarray(arrays[0]).dtype)

    return jax.tree.map(mean, *variables)


@dataclasses.dataclass(frozen=True)
class Model:
    """A finished network with what is needed to use it.

    info: classes, width, segment_seconds, top_db, top_db_over, and where it comes from.
    """

    network: Network
    variables: Variables
    info: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.info["classes"])

    @property
    def digest(self) -> str:
        """Hash of all arrays, names and classes: what soft labels are said to come from."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.variables)
        for path, array in leaves:
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def save_model(folder: str | os.PathLike, variables: Variables, info: dict[str, Any]) -> None:
    """Writes a model: Orbax arrays beside model.json, which comes last and makes it whole."""
    folder = pathlib.Path(os.path.abspath(folder))
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    tree = {"params": str_keys(variables.params), "stats": str_keys(variables.stats)}
    with _plain_disk_errors(folder):
        ocp.save(folder / _WEIGHTS, tree)
        if jax.process_index() == 0:
            files.write_json(folder / MODEL_FILE, info)


def load_model(path: str | os.PathLike) -> Model:
    """A model from a run folder, its `averaged` folder, an export of its weights or a `.pt` file.

    Exported are Orbax folders and `.safetensors`; a `.pt` file is an export or a published
    checkpoint. Raises UserError, saying what to do, where there is no model.
    """
    if pathlib.Path(path).suffix in (".pt", ".pth"):
        from psl_jax import torch_state  # which uses this module

        return torch_state.load(path)
    if pathlib.Path(path).suffix == ".safetensors":
        from psl_jax import export_weights  # likewise

        return export_weights.read_safetensors(path)
    folder = pathlib.Path(os.path.abspath(path))
    if not (folder / MODEL_FILE).exists():
        folder = folder / MODEL_FOLDER
    if not (folder / MODEL_FILE).exists():
        raise UserError(
            f"{path} holds no finished model (no {MODEL_FOLDER}/{MODEL_FILE} in it). Expected the "
            "folder of a finished run: train one first, such as with "
            "python -m psl_jax.main --config configs/teacher.py"
        )
    info = files.read_json(folder / MODEL_FILE)
    network, expected = create(len(info["classes"]), info["width"])
    weights = folder / _WEIGHTS
    tree = ocp.load(weights, _on_this_host(ocp.metadata(weights).metadata))
    loaded = Variables(int_keys(tree["params"]), int_keys(tree["stats"]))
    shapes = [jax.tree.map(np.shape, x) for x in (loaded, expected)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{folder}: the arrays are not those of a network of width {info['width']}")
    return Model(network, jax.tree.map(np.asarray, loaded), info)


def _on_this_host(metadata: Any) -> Any:
    """What to restore and where, for arrays saved by any number of devices: on one device here."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), metadata
    )


def str_keys(tree: Any) -> Any:
    """Nested dicts with every key as a string, as files name them."""
    return {str(k): str_keys(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def int_keys(tree: Any) -> Any:
    """Undoes `str_keys`: the network numbers its blocks."""
    if not isinstance(tree, dict):
        return tree
    return {int(k) if str(k).isdigit() else k: int_keys(v) for k, v in tree.items()}


@contextlib.contextmanager
def _plain_disk_errors(path: pathlib.Path) -> Iterator[None]:
    """A file that cannot be written as a UserError, without the tracebacks that Orbax logs."""
    logger = logging.getLogger("absl")
    logger.addFilter(_is_not_of_orbax)
    try:
        yield
    except (OSError, ValueError) as error:
        # TensorStore raises ValueErrors that name the operating system's error in their text.
        named = re.search(r"os_error_code='(\d+)'", str(error))
        code = int(named[1]) if named else getattr(error, "errno", None)
        if code is None:
            raise
        full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "Free some space" if full else "Mend that"
        raise UserError(
            f"cannot write {path}: {os.strerror(code)}. {advice} and run the same command "
            "again, which goes on from the last checkpoint."
        ) from error
    finally:
        logger.removeFilter(_is_not_of_orbax)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname
