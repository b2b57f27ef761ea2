"""Reads a model, whatever file, folder or place holds it."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from psl_jax.networks.trained_model import Model
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.paths import is_remote, local_copy, path_of

PUBLISHED = "model.safetensors"  # in a folder that psl-jax publish wrote
HUB = "hf://"
FILES = (".pt", ".pth", ".safetensors")
_RUNTIMES = {".onnx": "onnxruntime", ".tflite": "LiteRT", ".stablehlo": "jax.export"}


def load_model(path: str | os.PathLike, classes: Sequence[str] | None = None) -> Model:
    """A model from a run folder, its `averaged` folder, an export, a `.pt` file, or a hub.

    Exports are Orbax folders, `.safetensors` and `.pt`, and the folders of psl-jax publish; a
    `.pt` file may be a published checkpoint, too; hf://USER/NAME or hf://USER/NAME@REVISION is a
    published folder on the Hugging Face hub. `classes` names those of a published checkpoint, by
    default AudioSet's. Raises UserError, saying what to do, where there is no model.
    """
    # Each format is imported where it is asked for: most need a package of their own.
    if os.fspath(path).startswith(HUB):
        return load_model(fetch(os.fspath(path)), classes)
    path = path_of(path)
    if is_remote(path) and path.suffix in FILES:
        with _with_sidecar(path) as copy:
            return load_model(copy, classes)
    if path.suffix in (".pt", ".pth"):
        from psl_jax.weights import pytorch_file

        return pytorch_file.load(path, classes)
    if classes is not None:
        raise UserError(f"{path} names its classes itself: classes are for a published .pt file")
    if path.suffix == ".safetensors" or (path / PUBLISHED).is_file():
        from psl_jax.weights import safetensors_file

        with local_copy(path if path.suffix == ".safetensors" else path / PUBLISHED) as file:
            return safetensors_file.read_safetensors(file)
    if path.suffix in _RUNTIMES:
        raise UserError(
            f"{path} is a graph for {_RUNTIMES[path.suffix]}, which runs it (docs/EXPORT.md); its "
            "weights cannot be loaded as a model. Give the run, or its .safetensors or .pt export"
            + ("" if path.suffix == ".stablehlo" else "; as a teacher the file itself can be named")
        )
    from psl_jax.weights import orbax_folder

    return orbax_folder.read_model(path)


@contextlib.contextmanager
def _with_sidecar(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A copy of a file in a bucket, with what is told of it beside it (as of a .pt)."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    with local_copy(path) as copy:
        from psl_jax.weights.pytorch_file import sidecar

        beside = path.with_name(sidecar(path.name).name)
        if beside.is_file():
            copy.with_name(beside.name).write_bytes(beside.read_bytes())
        yield copy


_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")
_WANTED = ["model.safetensors", "averaged/*", "model.json", "weights/*"]


def fetch(address: str) -> str:
    """The folder on this machine that holds the model at `address`; downloads what is not there.

    Raises UserError for a wrong address, one that cannot be reached, or without huggingface-hub.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f"{address}: expected hf://USER/NAME, or hf://USER/NAME@REVISION")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingPackageError(address, "huggingface-hub", "hub") from error
    name, revision = match.groups()
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=_WANTED)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot fetch {address}: {reason}. Is the name right, is there a network, and for a "
            "private model a login (hf auth login)?"
        ) from error
    if not any(pathlib.Path(folder).iterdir()):
        raise UserError(f"{address} holds no model of psl_jax: no model.safetensors in it")
    return folder
