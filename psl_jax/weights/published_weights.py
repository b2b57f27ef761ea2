"""Published weights by name: downloaded once, checked, and kept in the user's cache folder."""

import os
import pathlib
from typing import NamedTuple

from psl_jax.runtime.errors import UserError


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


def fetch(name: str) -> pathlib.Path:
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
        reason = f"{error}".partition("\n")[0]
        raise UserError(
            f"cannot download {name} from {weights.url}: {reason}. Download the file of SHA-256 "
            f"{weights.sha256} elsewhere, and copy it to {folder / file}"
        ) from error
    return pathlib.Path(path)
