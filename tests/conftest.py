"""Tests run on the CPU and share compiled programs with the processes that they start."""

import gc
import importlib.metadata
import os
import shutil
import tempfile

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling takes far longer than running such small programs.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# With its fusion emitters XLA compiles for a CPU twice as long, and a third longer where it divides
# a program for several threads. Other versions may lack the flags.
if importlib.metadata.version("jax").startswith("0.10."):
    _flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flags}"
# Libraries bring a million objects, at which each collection of garbage looks anew, and tracing a
# program makes many: collections are few, and leave alone what was imported.
gc.set_threshold(10_000)
# Workers find both in their environment: they share what is in them.
_own_folders = {
    name: tempfile.mkdtemp(prefix=f"psl_jax_{name.lower()}_")
    for name in ("JAX_COMPILATION_CACHE_DIR", "FORKED_PYTHON")
    if name not in os.environ
}
os.environ |= _own_folders


def pytest_collection_finish():
    # Its plugin imports it at the end, and would warn of objects whose holders are frozen.
    importlib.import_module("hypothesis")
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    for folder in _own_folders.values():
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def shallow_networks():
    """Makes the networks that tests create shallow."""
    import small_network

    with small_network.blocks(small_network.SHALLOW):
        yield


@pytest.fixture(scope="module")
def paper_network(shallow_networks):
    """Makes those of one module the paper's."""
    import small_network

    with small_network.blocks(small_network.PAPER):
        yield


@pytest.fixture
def shallow():
    """Makes those of one test shallow, in a module of paper's networks."""
    import small_network

    with small_network.blocks(small_network.SHALLOW):
        yield


@pytest.fixture(scope="module")
def empty_figures():
    """Leaves the figures of reports empty in one module."""
    import small_figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_figures.figures.Figure, "_draw", small_figures.draw_nothing)
        yield
