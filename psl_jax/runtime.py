"""Process-wide settings of JAX, made once by the entry points before the first computation."""

import os
import pathlib
import warnings

import jax
from absl import logging


def configure(distributed: bool = False) -> None:
    """Joins a pod's other processes if asked to, and keeps compiled programs for the next start."""
    logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*donated buffers were not usable.*")
    if distributed:
        jax.distributed.initialize()
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
        jax.config.update(
            "jax_compilation_cache_dir", os.fspath(pathlib.Path(home) / "psl_jax" / "xla")
        )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 2.0)
