"""psl_jax.main, as the command line gives it, in this process."""

import os
import warnings

import places
import pytest
from absl import flags
from absl.testing import flagsaver

from psl_jax import main


def call_main(*arguments: str | os.PathLike) -> None:
    """Runs the command in the repository's folder. Raises UserError for what ends it with 2."""
    before = set(flags.FLAGS)
    with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver():
        patch.chdir(places.ROOT)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # ml-collections' load_module
                rest = main._parse(["main", *map(str, arguments)])
            main.main(rest)
        finally:
            for name in set(flags.FLAGS) - before:  # the config's, which each call defines anew
                delattr(flags.FLAGS, name)
