"""ONNX Runtime and OpenVINO on our ONNX export, on all cores, in the ways that could be fastest.

OpenVINO in bfloat16 computes everything so, the front end too.
"""

import dataclasses
import importlib.util
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from cases import MN_WIDTH, NUM_CLASSES, Case, create_network
from runners import Runner, repeated

from psl_jax.exporting import to_onnx
from psl_jax.networks.trained_model import Model, ModelInfo

CORES = os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Variant:
    """A library, and whether it computes one batch at a time on all cores, or several."""

    library: str
    several: bool = False

    def __str__(self) -> str:
        return self.library + ", several batches at a time" * self.several


def set_up() -> str:
    """The versions, in words."""
    words = [
        f"{library} {importlib.import_module(library).__version__}"
        for library in ("onnxruntime", "openvino")
        if importlib.util.find_spec(library)
    ]
    return ", ".join(words) or "without ONNX Runtime and OpenVINO"


def variants(case: Case, compile_modes: list[str]) -> list[Variant]:
    """For relabeling and tagging; ONNX Runtime has no bfloat16 on x86 processors."""
    if not case.relabels and case.operation != "tag":
        return []
    libraries = ["openvino"] + ["onnxruntime"] * (case.dtype == "float32")
    several = (False, True) if case.relabels else (False,)
    return [
        Variant(library, many)
        for library in libraries
        if importlib.util.find_spec(library)
        for many in several
    ]


def release() -> None:
    """Nothing is kept."""


def make_runner(case: Case, variant: Variant) -> Runner:
    start = time.perf_counter()
    build = _openvino if variant.library == "openvino" else _onnxruntime
    run, result = build(case, variant.several)
    run(1)
    seconds = time.perf_counter() - start
    return Runner(str(variant), run, seconds, result=result)


@lru_cache
def _exported(is_mn: bool) -> str:
    """The file of a network."""
    network, variables = create_network(is_mn)
    classes = tuple(f"class {i}" for i in range(NUM_CLASSES))
    path = pathlib.Path(tempfile.mkdtemp()) / "network.onnx"
    info = ModelInfo(classes, 1.0, 2.0)
    if is_mn:
        info = ModelInfo(classes, MN_WIDTH, 2.0, network="mn")
    to_onnx.write(path, Model(network, variables, info), {})
    return os.fspath(path)


def _waveforms(case: Case) -> np.ndarray:
    return case.audio().astype(np.float32) / 32768


def _onnxruntime(case: Case, several: bool) -> tuple[Callable[[int], None], Callable]:
    import onnxruntime

    at_once = min(2, CORES) if several else 1
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, CORES // at_once)
    session = onnxruntime.InferenceSession(
        _exported(case.is_mn), options, providers=["CPUExecutionProvider"]
    )
    inputs = {"waveform": _waveforms(case)}

    def step() -> np.ndarray:
        return session.run(["clip_probabilities"], inputs)[0]

    return repeated(step, at_once), step


def _openvino(case: Case, several: bool) -> tuple[Callable[[int], None], Callable]:
    import openvino

    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "THROUGHPUT" if several else "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if case.dtype == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": CORES,
    }
    model = openvino.Core().read_model(_exported(case.is_mn))
    inputs = [_waveforms(case)]
    model.reshape(list(inputs[0].shape))
    compiled = openvino.compile_model(model, "CPU", settings)
    if not several:
        request = compiled.create_infer_request()

        def step() -> np.ndarray:
            return request.infer(inputs, share_inputs=True)[0]

        return repeated(step), step
    queue = openvino.AsyncInferQueue(compiled)

    def run(times: int) -> None:
        for _ in range(times):
            queue.start_async(inputs, share_inputs=True)
        queue.wait_all()

    return run, lambda: compiled(inputs)[0]
