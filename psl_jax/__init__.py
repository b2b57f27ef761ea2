"""Pseudo strong labels for weakly supervised audio tagging, in JAX.

    import psl_jax

    model = psl_jax.load("runs/psl2s")
    print(model.tag("street.mp3").top(5))

Importing psl_jax imports neither JAX nor TensorFlow; `load` imports JAX.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from psl_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from psl_jax.tagging.events import Event
    from psl_jax.tagging.tagger import Tagger, Tags

__version__ = "0.1.0"
__all__ = ["Event", "Tagger", "Tags", "UserError", "__version__", "load"]

_LATE = {"Event": "events", "Tagger": "tagger", "Tags": "tagger"}  # imported when asked for


def load(path: str | os.PathLike) -> Tagger:
    """The model of a finished run, ready to tag: see `psl_jax.Tagger`.

    Args:
      path: a run folder or its `averaged` folder.

    Raises:
      psl_jax.UserError: there is no finished model.
    """
    from psl_jax.tagging import tagger

    return tagger.load(path)


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'psl_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"psl_jax.tagging.{_LATE[name]}"), name)
