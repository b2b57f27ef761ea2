"""Pseudo strong labels for weakly supervised audio tagging, in JAX.

    import psl_jax

    model = psl_jax.load("runs/psl2s")
    print(model.tag("street.mp3").top(5))

Importing psl_jax imports neither JAX nor TensorFlow; `load` imports JAX.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psl_jax.tagger import Tagger

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: str | os.PathLike) -> Tagger:
    """The model of a finished run, ready to tag: see `psl_jax.tagger`.

    Args:
      path: a run folder or its `averaged` folder.

    Raises:
      psl_jax.errors.UserError: there is no finished model.
    """
    from psl_jax import tagger

    return tagger.load(path)
