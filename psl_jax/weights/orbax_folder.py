"""A finished model as a folder: Orbax arrays beside model.json."""

import contextlib
import hashlib
import os
import pathlib
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from psl_jax.networks.mobilenetv2 import STEM_CHANNELS, Variables, create, scaled
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.runtime import distributed, files, interrupts, lost_processes
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import absolute, is_remote, local_copy, path_of, remove_tree

MODEL_FILE = "model.json"
MODEL_FOLDER = "averaged"
_WEIGHTS = "weights"
_AGAIN = (
    "copy it again from where it is whole, or delete {} and give the command again that trained "
    "it, which averages the checkpoints anew"
)
_DIGEST = "weights_crc32"  # in model.json; earlier versions wrote none


def save_model(folder: str | os.PathLike, variables: Variables, info: dict[str, Any]) -> None:
    """Writes a model: Orbax arrays beside model.json, which comes last and makes it whole.

    info: JSON values, `ModelInfo.as_json()` or more.
    """
    folder = absolute(folder)
    if jax.process_index() == 0:
        remove_tree(folder, ignore_errors=True)
    tree = {"params": str_keys(variables.params), "stats": str_keys(variables.stats)}
    with interrupts.defer_signals(), plain_disk_errors(folder, "Run the same command again."):
        if is_remote(folder):
            _save_and_send(folder / _WEIGHTS, tree)
        else:
            ocp.save(orbax_path(folder / _WEIGHTS), tree)
        if jax.process_index() == 0:
            files.write_json(folder / MODEL_FILE, info | {_DIGEST: _crc(variables)})


def _save_and_send(place: pathlib.Path, tree: Any) -> None:
    """Saves to a temporary folder and sends it to a bucket; of several processes the first does."""
    with tempfile.TemporaryDirectory(prefix="psl_jax-") as own:
        # Orbax compares the processes' paths.
        first = distributed.exchange(own)[0]
        local = pathlib.Path(first, place.name)
        ocp.save(os.fspath(local), tree)
        if jax.process_index() == 0:
            place.upload(local)  # type: ignore[attr-defined]


def orbax_path(path: pathlib.Path) -> str:
    """`path` for Orbax, which takes `*?[]` and a backslash in it for a pattern: then by a link."""
    text = os.fspath(path)
    if not set("*?[]\\") & set(text):
        return text
    # All processes of a run name the link alike: Orbax compares their paths.
    name = f"psl_jax-{os.getuid()}-{hashlib.sha256(os.fsencode(path.parent)).hexdigest()[:16]}"
    link = pathlib.Path(tempfile.gettempdir(), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(path.parent)
    if link.readlink() != path.parent:
        raise UserError(f"{link} is no link to {path.parent}: delete it")
    return os.fspath(link / path.name)


def find_folder(path: str | os.PathLike) -> pathlib.Path:
    """The folder that holds the model: that of a run, or itself. Raises UserError for none."""
    folder = absolute(path)
    if not (folder / MODEL_FILE).exists():
        folder = folder / MODEL_FOLDER
    if not (folder / MODEL_FILE).exists():
        inside = path_of(path).glob(f"*/{MODEL_FOLDER}/{MODEL_FILE}")
        if models := sorted(os.fspath(found.parent.parent) for found in inside):
            names = "".join(f"\n  {name}" for name in models)
            raise UserError(f"{path} holds several models: give one of them{names}")
        if not path_of(path).exists():
            raise UserError(f"{path}: there is no such file or folder: is the path right?")
        raise UserError(
            f"{path} holds no finished model (no {MODEL_FOLDER}/{MODEL_FILE} in it). Expected the "
            "folder of a finished run: train one first, such as with "
            "python -m psl_jax.main --config configs/teacher.py"
        )
    return folder


def read_model(path: str | os.PathLike) -> Model:
    """The model of a run folder, or of a folder that `save_model` wrote.

    Raises UserError, saying what to do, where there is none.
    """
    folder = find_folder(path)
    with local_copy(folder) as local:
        return _read_model(folder, local)


def _read_model(folder: pathlib.Path, local: pathlib.Path) -> Model:
    """The model in `folder`, of which `local` is a copy, or the same."""
    try:
        described = files.read_json(local / MODEL_FILE)
    except ValueError as error:
        raise UserError(f"{folder / MODEL_FILE} is damaged: {error}") from error
    crc = described.pop(_DIGEST, None) if isinstance(described, dict) else None
    info = ModelInfo.from_json(described, folder / MODEL_FILE)
    weights = folder / _WEIGHTS
    with named_damage(weights, _AGAIN.format(folder)):
        stored = orbax_path(local / _WEIGHTS)
        tree = ocp.load(stored, on_this_host(ocp.metadata(stored).metadata))
    loaded = Variables(int_keys(tree["params"]), int_keys(tree["stats"]))
    other = UserError(f"{folder}: the arrays are not those of a network of width {info.width}")
    # Looked at first: a network of a width that somebody mistyped could take all memory.
    if np.shape(loaded.params.get("stem", {}).get("kernel")) != (
        *(3, 3, 1),
        scaled(STEM_CHANNELS, info.width),
    ):
        raise other
    network, expected = create(len(info.classes), info.width, output=info.output)
    shapes = [jax.tree.map(np.shape, x) for x in (loaded, expected)]
    if shapes[0] != shapes[1]:
        raise other
    loaded = jax.tree.map(np.asarray, loaded)
    if crc not in (None, _crc(loaded)):
        raise UserError(
            f"{weights}: damaged, the arrays are not those that {MODEL_FILE} was written for: "
            + _AGAIN.format(folder)
        )
    return Model(network, loaded, info)


@contextlib.contextmanager
def named_damage(path: pathlib.Path, advice: str) -> Iterator[None]:
    """Turns what Orbax raises for damaged or missing files, of many kinds, into a UserError.

    That another process is gone, for which Orbax waits, is not one of them. A SIGTERM in here is
    answered at the end: Orbax's threads would tell of it in dozens of tracebacks.
    """
    try:
        with interrupts.defer_signals():
            yield
    except UserError:
        raise
    except Exception as error:
        if lost_processes.is_loss_of_others(error):  # Orbax waits for them
            raise
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.200}"
        raise UserError(
            f"{path}: damaged, or not whole, or no longer to be read: {advice} ({reason})"
        ) from error


def array_crc(arrays: Iterable[np.ndarray], crc: int = 0) -> int:
    """CRC-32 of the bytes of arrays, one after the other."""
    for array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return crc


def _crc(variables: Variables) -> int:
    return array_crc(np.asarray(leaf) for leaf in jax.tree.leaves(variables))


def on_this_host(metadata: Any) -> Any:
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
