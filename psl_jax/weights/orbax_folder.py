"""Reads and writes a finished model as a folder: Orbax arrays beside model.json."""

import contextlib
import hashlib
import os
import pathlib
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx, serialization
from orbax.checkpoint import v1 as ocp

from psl_jax.networks.architecture import Variables
from psl_jax.networks.trained_model import Model, ModelInfo, Thresholds
from psl_jax.runtime import distributed, errors, files, interrupts
from psl_jax.runtime.disk_errors import check_writable, plain_disk_errors
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import absolute, is_remote, local_copy, path_of, remove_tree

MODEL_FILE = "model.json"
MODEL_FOLDER = "averaged"
_WEIGHTS = "weights"
_REMEDY = (
    "copy it again from where it is whole, or delete {} and give the command again that trained "
    "it, which averages the checkpoints anew"
)
_DIGEST = "weights_crc32"  # in model.json; earlier versions wrote none


def save_model(folder: str | os.PathLike[str], variables: Variables, info: dict[str, Any]) -> None:
    """Writes a model: Orbax arrays beside model.json, which comes last and makes it whole.

    info: JSON values, `ModelInfo.as_json()` or more.
    """
    folder = absolute(folder)
    if jax.process_index() == 0:
        remove_tree(folder, ignore_errors=True)
    tree = serialization.to_state_dict(variables)
    with interrupts.defer_signals(), plain_disk_errors(folder, "Run the same command again."):
        if is_remote(folder):
            _save_and_send(folder / _WEIGHTS, tree)
        else:
            ocp.save(make_orbax_path(folder / _WEIGHTS), tree)
        if jax.process_index() == 0:
            files.write_json(folder / MODEL_FILE, info | {_DIGEST: _compute_crc(variables)})


def _save_and_send(remote_folder: pathlib.Path, tree: Any) -> None:
    """Saves to a temporary folder, which the first process then sends to a bucket."""
    with tempfile.TemporaryDirectory(prefix="psl_jax-") as temporary_folder:
        # Orbax compares the processes' paths.
        first_folder = distributed.exchange(temporary_folder)[0]
        local = pathlib.Path(first_folder, remote_folder.name)
        ocp.save(os.fspath(local), tree)
        if jax.process_index() == 0:
            remote_folder.upload(local)  # type: ignore[attr-defined]


def make_orbax_path(path: pathlib.Path) -> str:
    """A path that Orbax can use, by a link: it reads `*?[]` and a backslash as a pattern."""
    name = os.fspath(path)
    if not set("*?[]\\") & set(name):
        return name
    # All processes of a run name the link alike: Orbax compares their paths.
    link_name = f"psl_jax-{os.getuid()}-{hashlib.sha256(os.fsencode(path.parent)).hexdigest()[:16]}"
    link = pathlib.Path(tempfile.gettempdir(), link_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(path.parent)
    if link.readlink() != path.parent:
        raise UserError(f"{link} is no link to {path.parent}: delete it")
    return os.fspath(link / path.name)


def find_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """Finds the folder with the model: `path`, or a folder in it. Raises UserError for none."""
    folder = absolute(path)
    if not (folder / MODEL_FILE).exists():
        folder = folder / MODEL_FOLDER
    if not (folder / MODEL_FILE).exists():
        model_files = path_of(path).glob(f"*/{MODEL_FOLDER}/{MODEL_FILE}")
        if models := sorted(os.fspath(file.parent.parent) for file in model_files):
            names = "".join(f"\n  {name}" for name in models)
            raise UserError(f"{path} is no model, but has models in it: give one of these{names}")
        if not path_of(path).exists():
            raise UserError(
                f"{path}: there is no such file or folder. Expected that of a model, or mn04"
            )
        raise UserError(
            f"{path} holds no finished model (no {MODEL_FOLDER}/{MODEL_FILE} in it). Expected the "
            "folder of a finished run: train one first, such as with "
            "python -m psl_jax.main --config configs/teacher.py"
        )
    return folder


def read_model(path: str | os.PathLike[str]) -> Model:
    """Reads the model of a run folder, or of one that `save_model` wrote. Raises UserError."""
    folder = find_folder(path)
    weights = folder / _WEIGHTS
    model_json = files.read_json(folder / MODEL_FILE)
    crc = model_json.pop(_DIGEST, None)
    info = ModelInfo.from_json(model_json, folder / MODEL_FILE)
    with local_copy(folder) as local, explain_damage(weights, _REMEDY.format(folder)):
        stored_path = make_orbax_path(local / _WEIGHTS)
        arrays = ocp.load(stored_path, make_restore_target(ocp.metadata(stored_path).metadata))
        loaded = jax.tree.map(np.asarray, restore_variables(arrays))
    model = Model.of(loaded, info, folder)
    if crc not in (None, _compute_crc(loaded)):
        raise UserError(
            f"{weights}: damaged, the arrays are not those that {MODEL_FILE} was written for: "
            + _REMEDY.format(folder)
        )
    return model


def check_thresholds_writable(path: str | os.PathLike[str]) -> None:
    """Raises UserError where thresholds cannot be stored, before hours of tuning."""
    if not path_of(path).is_dir():
        raise UserError(
            f"thresholds are stored in the folder of a model, and {path} is none: give --dry_run "
            "and --csv=FILE (psl-jax tag --thresholds=FILE takes that)"
        )
    check_writable(find_folder(path), "place for the model, or give --dry_run and --csv=FILE")


def store_thresholds(path: str | os.PathLike[str], tuned: Thresholds | None) -> pathlib.Path:
    """Stores thresholds of all of a model's classes in its model.json, which it returns.

    path: a run folder or its `averaged` folder. tuned: None deletes those that are there. Raises
    UserError for another model, or one that cannot be written.
    """
    file = find_folder(path) / MODEL_FILE
    model_json = {k: value for k, value in files.read_json(file).items() if k != "thresholds"}
    if tuned is not None:
        model_json["thresholds"] = tuned.as_json(model_json["classes"])
    try:
        files.write_json(file, model_json)
    except OSError as error:
        raise UserError(f"cannot write the thresholds into {path}: {error}") from error
    return file


@contextlib.contextmanager
def explain_damage(path: pathlib.Path, remedy: str) -> Iterator[None]:
    """Turns what Orbax raises for damaged or missing files into a UserError.

    Signals are answered when the block ends: Orbax's threads would print dozens of tracebacks.
    """
    jax.local_devices()  # where JAX finds none, nothing is damaged
    try:
        with interrupts.defer_signals():
            yield
    except UserError:
        raise
    except Exception as error:
        if errors.is_loss_of_others(error):  # Orbax waits for them
            raise
        if interrupts.is_interrupted():  # which says nothing of the file
            raise KeyboardInterrupt from error
        message = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {message:.200}"
        raise UserError(
            f"{path}: damaged, or not whole, or no longer to be read: {remedy} ({reason})"
        ) from error


def compute_array_crc(arrays: Iterable[np.ndarray], crc: int = 0) -> int:
    """Computes the CRC-32 of the bytes of arrays, one after the other."""
    for array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return crc


def _compute_crc(variables: Variables) -> int:
    return compute_array_crc(np.asarray(leaf) for leaf in jax.tree.leaves(variables))


def make_restore_target(metadata: Any) -> Any:
    """Asks Orbax for arrays, saved by any number of devices, on one device of this host."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), metadata
    )


def restore_variables(tree: Mapping[str, Any]) -> Variables:
    """Variables of nested dicts whose keys are all strings: the network numbers its blocks."""
    return Variables(*(nnx.restore_int_paths(tree.get(name, {})) for name in Variables._fields))
