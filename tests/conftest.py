"""Tests run on the CPU and share compiled programs with the processes that they start."""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_own_cache = None if _CACHE in os.environ else tempfile.mkdtemp(prefix="psl_jax_xla_")
if _own_cache:
    os.environ[_CACHE] = _own_cache


def pytest_unconfigure():
    if _own_cache:
        shutil.rmtree(_own_cache, ignore_errors=True)
