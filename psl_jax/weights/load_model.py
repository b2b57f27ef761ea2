"""Reads a model from a file, a folder, a bucket or a hub."""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from psl_jax.networks.trained_model import Model
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.paths import is_remote, local_copy, path_of

_PUBLISHED_FILE = "model.safetensors"  # in a folder that psl-jax publish wrote
HUB = "hf://"
FILES = (".pt", ".pth", ".safetensors")
_GRAPHS = (".onnx", ".tflite", ".stablehlo")


class Weights(NamedTuple):
    """Where weights are, what they are, and under which licence."""

    url: str
    sha256: str
    licence: str


_EFFICIENTAT = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1"

PUBLISHED: dict[str, Weights] = {
    "mn04": Weights(
        f"{_EFFICIENTAT}/mn04_as_mAP_432.pt",
        "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
        "MIT",
    ),
}


def load_model(path: str | os.PathLike[str], classes: Sequence[str] | None = None) -> Model:
    """Reads a model from a run folder, its `averaged` folder, an export, a `.pt` file, or a hub.

    Args:
      path: an export is an Orbax folder, a `.safetensors` or `.pt` file, or a folder of psl-jax
        publish, also one on the Hugging Face hub: hf://USER/NAME, hf://USER/NAME@REVISION. A `.pt`
        file may also be a published checkpoint, and a name of PUBLISHED weights stands for it.
      classes: the classes of a published checkpoint, by default AudioSet's.

    Raises UserError, with a remedy, where there is no model.
    """
    # We import each format where it is used: most need a package that others do without.
    if os.fspath(path).startswith(HUB):
        return load_model(fetch(os.fspath(path)), classes)
    path = path_of(path)
    if os.fspath(path) in PUBLISHED and not path.exists():
        path = fetch_published(os.fspath(path))
    if is_remote(path) and path.suffix in FILES:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        with local_copy(path) as copy:
            sidecar = path.with_name(f"{path.name}.json")  # which a .pt has
            if sidecar.is_file():
                copy.with_name(sidecar.name).write_bytes(sidecar.read_bytes())
            return load_model(copy, classes)
    if path.suffix in (".pt", ".pth"):
        from psl_jax.weights import pytorch_file

        return pytorch_file.load(path, classes)
    if classes is not None:
        raise UserError(f"{path} names its classes itself: classes are for a published .pt file")
    if path.suffix == ".safetensors" or (path / _PUBLISHED_FILE).is_file():
        from psl_jax.weights import safetensors_file

        with local_copy(path if path.suffix == ".safetensors" else path / _PUBLISHED_FILE) as file:
            return safetensors_file.read_safetensors(file)
    if path.suffix in _GRAPHS:
        raise UserError(
            f"{path} is a graph for another runtime, and no model that can be loaded "
            "(docs/EXPORT.md). Give the run, or its .safetensors or .pt export"
        )
    from psl_jax.weights import orbax_folder

    return orbax_folder.read_model(path)


_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")
_FILE_PATTERNS = ("model.safetensors", "averaged/*", "model.json", "weights/*")


def fetch(address: str, patterns: Sequence[str] = _FILE_PATTERNS) -> str:
    """Downloads files of the repository at `address`, unless they are here; returns their folder.

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
        folder: str = snapshot_download(name, revision=revision, allow_patterns=list(patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot fetch {address}: {reason}. Is the name right, is there a network, and for a "
            "private model a login (hf auth login)?"
        ) from error
    if not any(pathlib.Path(folder).iterdir()):
        raise UserError(f"{address} holds no model: none of {', '.join(patterns)}")
    return folder


def fetch_published(name: str) -> pathlib.Path:
    """The file of PUBLISHED weights, downloaded where it is not there yet. Raises UserError."""
    import pooch
    from requests import RequestException

    weights = PUBLISHED[name]
    folder, file = pathlib.Path(pooch.os_cache("psl_jax")), os.path.basename(weights.url)
    try:
        path = pooch.retrieve(
            weights.url, f"sha256:{weights.sha256}", file, folder, progressbar=False
        )
    except (RequestException, OSError, ValueError) as error:  # the last of another checksum
        reason = f"{error}".partition("\n")[0].rstrip(".")
        raise UserError(
            f"cannot download {name} from {weights.url}: {reason}. Try again, or download the file "
            f"of SHA-256 {weights.sha256} elsewhere, and copy it to {folder / file}"
        ) from error
    return pathlib.Path(path)
