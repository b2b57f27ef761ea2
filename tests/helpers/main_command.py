"""psl_jax.main, as the command line gives it, in this process."""

import os

import places
import pytest

from psl_jax import main

# A run of two steps on six clips of each split.
SMALL = (
    *("--config.model.width=0.1", "--config.train.max_steps=2"),
    *("--config.train.batch_size=4", "--config.evaluate.batch_size=4"),
    *(f"--config.data.{split}_clips=6" for split in ("full", "balanced", "eval")),
)


def call_main(*arguments: str | os.PathLike) -> None:
    """Runs the command in the repository's folder. Raises UserError for what ends it with 2."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(places.ROOT)
        main.main(main.parse(["main", *map(str, arguments)]))
