"""Runs ONNX and TFLite files that take waveforms as teachers; FILE.toml says what they do not."""

import dataclasses
import json
import os
import pathlib
import queue
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from psl_jax.networks import class_lists
from psl_jax.runtime import errors, files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.settings import check, list_settings, setting
from psl_jax.teachers.teacher import (
    AUDIOSET_SECONDS,
    Run,
    Teacher,
    check_scores,
    cut_windows,
    make_opener,
    make_quiet_noise,
    make_teacher,
)

_HOPS = {15_600: 7680}  # from one of YAMNet's patches to the next; else half a patch


@dataclasses.dataclass(frozen=True)
class Description:
    """What FILE.toml beside a model file says of it, besides its classes."""

    rate: int = setting(16_000, least=4000, most=192_000, help="Sample rate of the input in Hz")
    scale: float = setting(1.0, help="Factor of a waveform in [-1, 1]")
    outputs: str = setting(
        "probabilities", choices=("probabilities", "logits"), help="What the output is"
    )
    output: str = setting("", help="Name of the output; empty: the first")


class Runtime(NamedTuple):
    """A file in its runtime."""

    shape: tuple[int | None, ...]  # of its input; None where a size is free
    # Computes the output of an array of that shape; several threads may call it.
    run: Callable[[np.ndarray], np.ndarray]
    info: dict[str, Any]  # metadata of an export of ours; {} for other files

    @property
    def takes_batches(self) -> bool:
        return len(self.shape) > 1 and self.shape[0] is None


def load(kind: str, path: str) -> Teacher:
    """Opens the teacher in a file of kind "onnx" or "tflite".

    It scores noise once, and raises UserError for anything that would fail later.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f"{path}: there is no such file")
    description = _read_description(file)
    runtime = {"onnx": _open_onnx, "tflite": _open_tflite}[kind](file, description)
    if isinstance(rate := runtime.info.get("sample_rate"), int):
        description = dataclasses.replace(description, rate=rate)
    patch, rate = _find_patch(file, runtime.shape), description.rate
    hop = _HOPS.get(patch, max(patch // 2, 1)) if patch else 0
    run = _make_runner(description, runtime, patch, hop)
    scores = run(make_quiet_noise(1, rate))
    check_scores(scores, path)
    classes = _find_classes(file, runtime.info.get("classes"), scores.shape[1])
    # Keys without a choice are those that digests of earlier labels have.
    settings = dataclasses.asdict(description) | {"patch": patch, "patch_hop": hop}
    settings |= {"input": "waveform", **dict.fromkeys(("file", "classes", "given", "spectrum"))}
    digest = files.json_digest([kind, files.compute_sha256(file), settings, list(classes)])
    return make_teacher(
        kind,
        file.stem,
        classes,
        make_opener(run, rate, file.stem, takes_batches=runtime.takes_batches),
        rate=rate,
        digest=digest,
        what=kind + (f", {patch / rate:g} s at a time" if patch else ""),
        facts={"input": "waveform"},
        segment_seconds=float(runtime.info.get("segment_seconds", AUDIOSET_SECONDS)),
        output=str(runtime.info.get("output", "sigmoid")),
    )


def _read_description(file: pathlib.Path) -> Description:
    """Reads FILE.toml, if there is one. Raises UserError for unknown keys and values."""
    path = pathlib.Path(f"{file}.toml")
    if not path.is_file():
        return Description()
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} as a description of a teacher: {error}") from error
    infos = dict(list_settings(Description))
    for key, value in settings.items():
        if key not in infos:
            near = class_lists.near_names(key, list(infos))
            raise UserError(
                f"{path}: unknown key {key!r}{near}; known: {', '.join(infos)}. The names of the "
                f"classes stand in {file}.classes.csv"
            )
        check(key, value, infos[key], f"{path}: ")
    return Description(**settings)


def _find_patch(file: pathlib.Path, shape: tuple[int | None, ...]) -> int:
    """Samples that a model takes at a time; 0: any number. Raises UserError for other inputs."""
    row_sizes = [size for size in shape[1:] if size != 1]  # without the batch and axes of 1
    has_batch = len(shape) > 1
    if not 0 < len(shape) <= 3 or len(row_sizes) > 1 or (has_batch and shape[0] not in (1, None)):
        shape_text = f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
        raise UserError(
            f"{file}: its input {shape_text} is no waveform. Export the model with its front end "
            "inside, as psl-jax export does, or name a function that runs it: "
            "python:package.module:function (docs/TEACHERS.md)"
        )
    return (row_sizes[0] if row_sizes else shape[-1]) or 0


def _make_runner(description: Description, runtime: Runtime, patch: int, hop: int) -> Run:
    """Makes a function of waveforms [n, samples] to probabilities [n, classes]."""

    def run(waveforms: np.ndarray) -> np.ndarray:
        inputs = waveforms * np.float32(description.scale)
        if patch:
            inputs = cut_windows(inputs, patch, hop=hop).reshape(-1, patch)
        batches = [inputs] if runtime.takes_batches else list(inputs[:, None])
        outputs = [runtime.run(_reshape(batch, runtime.shape)) for batch in batches]
        scores = np.concatenate(
            [_average_over_time(x, len(b)) for x, b in zip(outputs, batches, strict=True)]
        )
        if description.outputs == "logits":
            scores = 1 / (1 + np.exp(-scores))
        return _average_over_time(scores, len(waveforms))

    return run


def _reshape(inputs: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """Reshapes waveforms [n, size] for the input, with its axes of 1."""
    if len(shape) == 1:
        return np.asarray(inputs[0])
    for axis, size in enumerate(shape):
        if axis and size == 1 and inputs.ndim < len(shape):
            inputs = np.expand_dims(inputs, axis)
    return np.ascontiguousarray(inputs, np.float32)


def _average_over_time(outputs: np.ndarray, num_rows: int) -> np.ndarray:
    """The means of outputs [rows, ..., classes]: float32 [rows, classes]."""
    rows = np.asarray(outputs, np.float32).reshape(num_rows, -1, outputs.shape[-1])
    return np.asarray(rows.mean(axis=1))


def _find_classes(file: pathlib.Path, names: Any, count: int) -> tuple[str, ...]:
    """Finds the names in a list beside the file; without one those that its metadata have."""
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names and is_list and not os.path.exists(f"{file}.classes.csv"):
        return class_lists.name_columns(names, count, file, "")
    return class_lists.classes_beside(file, count)


# --- Runtimes -------------------------------------------------------------------------------------


def _check_input(names: Sequence[str], dtype: str, file: pathlib.Path) -> None:
    """Raises UserError unless a model has one input of float32."""
    if len(names) != 1:
        raise UserError(
            f"{file} has {len(names)} inputs ({', '.join(names)}): expected one, a waveform"
        )
    if dtype not in ("float32", "tensor(float)"):
        raise UserError(f"{file}: its input is of {dtype}, expected float32")


def _choose_output(
    file: pathlib.Path, description: Description, names: Sequence[str], default: int
) -> int:
    """Returns the number of the output that the description names. Raises UserError."""
    if not description.output:
        return default
    if description.output not in names:
        raise UserError(f"{file} has no output {description.output!r}: it has {', '.join(names)}")
    return names.index(description.output)


def _open_onnx(file: pathlib.Path, description: Description) -> Runtime:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(file, "onnxruntime", "export") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = os.cpu_count() or 1
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own kinds of errors, for damaged files of any kind
        raise UserError(
            f"{file} cannot be opened by onnxruntime: {errors.first_line(error)}"
        ) from error
    inputs, outputs = session.get_inputs(), [tensor.name for tensor in session.get_outputs()]
    dtype = inputs[0].type if inputs else "nothing"
    _check_input([tensor.name for tensor in inputs], dtype, file)
    ours = "clip_probabilities"  # of an export
    default = outputs.index(ours) if ours in outputs else 0
    output = outputs[_choose_output(file, description, outputs, default)]
    metadata = session.get_modelmeta().custom_metadata_map
    info = {key: _parse_json(value) for key, value in metadata.items()}
    sizes = inputs[0].shape
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in sizes)
    return Runtime(shape, lambda x: session.run([output], {inputs[0].name: x})[0], info)


def _parse_json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _open_tflite(file: pathlib.Path, description: Description) -> Runtime:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingPackageError(file, "ai-edge-litert", "export") from error
    content = file.read_bytes()
    # An interpreter belongs to one thread at a time.
    idle_interpreters: queue.SimpleQueue[Any] = queue.SimpleQueue()
    try:
        for _ in range(os.cpu_count() or 1):
            interpreter = Interpreter(model_content=content, num_threads=1)
            (source, *_) = interpreter.get_input_details()
            signature = source["shape_signature"]
            if signature.min(initial=1) < 1:
                # Free sizes are 1 until they are known: too few samples for a front end.
                trial_shape = np.where(signature < 1, description.rate, signature)
                if len(trial_shape) > 1:
                    trial_shape[0] = 1  # the batch
                interpreter.resize_tensor_input(source["index"], trial_shape)
            interpreter.allocate_tensors()
            idle_interpreters.put(interpreter)
    except Exception as error:
        raise UserError(f"{file} cannot be opened as TFLite: {errors.first_line(error)}") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    dtype = np.dtype(source["dtype"]).name
    _check_input([tensor["name"] for tensor in inputs], dtype, file)
    info = _read_attached_info(file)
    ranks = [len(tensor["shape"]) for tensor in outputs]
    default = ranks.index(min(ranks)) if info else 0  # of exports: that of clips
    names = [tensor["name"] for tensor in outputs]
    output = outputs[_choose_output(file, description, names, default)]["index"]

    def run(x: np.ndarray) -> np.ndarray:
        interpreter = idle_interpreters.get()
        try:
            if tuple(interpreter.get_input_details()[0]["shape"]) != x.shape:
                interpreter.resize_tensor_input(source["index"], x.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(source["index"], x)
            interpreter.invoke()
            return np.asarray(interpreter.get_tensor(output))
        finally:
            idle_interpreters.put(interpreter)

    shape = tuple(None if size < 1 else int(size) for size in signature)
    if len(shape) > 1:  # one row a call: interpreters work side by side, which needs no batch
        shape = (1, *shape[1:])
    return Runtime(shape, run, info)


def _read_attached_info(file: pathlib.Path) -> dict[str, Any]:
    """Reads the metadata that an export of ours has at the file's end."""
    try:
        with zipfile.ZipFile(file) as archive:
            info = json.loads(archive.read("psl_jax.json"))
            return info if isinstance(info, dict) else {}
    except (zipfile.BadZipFile, KeyError, ValueError):
        return {}
