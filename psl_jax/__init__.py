"""Pseudo strong labels for weakly supervised audio tagging, in JAX.

    import psl_jax

    model = psl_jax.load("runs/psl2s")
    print(model.tag("street.mp3").top(5))

Importing psl_jax imports neither JAX nor TensorFlow; `load` imports JAX.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psl_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from psl_jax.tagging.events import Event, Tags
    from psl_jax.tagging.streaming import Stream
    from psl_jax.tagging.tagger import Tagger

__version__ = "0.2.0"
__all__ = ["Event", "Stream", "Tagger", "Tags", "UserError", "__version__", "load"]

# Imported when asked for.
_LATE = {"Event": "events", "Tagger": "tagger", "Tags": "events", "Stream": "streaming"}


def _run_by_new_form() -> None:
    """Where `python -m psl_jax.tag` is run, as in version 0.1: says the new form, and runs that."""
    words = sys.orig_argv
    place = next((k for k, word in enumerate(words) if word.startswith("psl_jax.")), 0)
    module = words[place]
    name = module.removeprefix("psl_jax.").removeprefix("commands.")
    is_command = pathlib.Path(__file__).with_name("commands").joinpath(f"{name}.py").exists()
    if place and "psl_jax" not in words[:place] and is_command:
        print(f"{module} is now psl-jax {name}, or python -m psl_jax {name}", file=sys.stderr)
        command = [*words[1:place], "psl_jax", name, *words[place + 1 :]]
        os.execv(sys.executable, [sys.executable, *command])


if sys.argv[:1] == ["-m"]:
    _run_by_new_form()


def load(
    path: str | os.PathLike[str],
    labels: Sequence[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
) -> Tagger:
    """A finished model, ready to tag: see `psl_jax.Tagger`.

    Args:
      path: a run folder or its `averaged` folder, a published folder, an exported file
        (`.safetensors`, `.pt`), a published `.pt`, here or in a bucket, or hf://USER/NAME.
      labels: names of the classes to tag, in this order; by default all of the model's.
      classes: CSV of the classes of a published `.pt` that has others than AudioSet's.

    Raises psl_jax.UserError where there is no model, or it lacks a class.
    """
    from psl_jax.tagging import tagger

    return tagger.load(path, labels, classes)


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'psl_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"psl_jax.tagging.{_LATE[name]}"), name)
