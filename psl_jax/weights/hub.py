"""Published models on the Hugging Face hub: hf://USER/NAME, or hf://USER/NAME@REVISION."""

import pathlib
import re

from psl_jax.runtime.errors import MissingPackageError, UserError

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
