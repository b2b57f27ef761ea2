"""psl_jax.main, as the command line gives it, in this process."""

import os

import places
import pytest

from psl_jax import main


def call_main(*arguments: str | os.PathLike) -> None:
    """Runs the command in the repository's folder. Raises UserError for what ends it with 2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(places.ROOT)
        main.main(main.parse(["main", *map(str, arguments)]))
