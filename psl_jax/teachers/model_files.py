"""Runs ONNX and TFLite files as teachers, on waveforms, or on log-mel by a description."""

import dataclasses
import hashlib
import json
import os
import pathlib
import queue
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from psl_jax.networks import class_lists
from psl_jax.runtime import files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.teachers import host_logmel, host_scorer, model_description
from psl_jax.teachers.host_scorer import HostScorer
from psl_jax.teachers.model_description import Description
from psl_jax.teachers.teacher import (
    AUDIOSET_SECONDS,
    ScoringOptions,
    check_scores,
    make_description,
    make_quiet_noise,
    refuse_other_types,
)

_YAMNET_SAMPLES, _YAMNET_HOP, _YAMNET_FRAMES = 15_600, 7680, 96  # a patch every 0.48 s


class Runtime(NamedTuple):
    """A file in its runtime.

    Attributes:
      shape: shape of its input; None where a size is free.
      run: computes the output of an array of that shape; several threads may call it.
      info: metadata of an export of ours; {} for other files.
    """

    shape: tuple[int | None, ...]
    run: Callable[[np.ndarray], np.ndarray]
    info: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FileTeacher:
    """See `Teacher`."""

    kind: str
    name: str
    classes: tuple[str, ...]
    description: Description
    run: host_scorer.Run
    takes_batches: bool
    context_seconds: float | None
    digest: str
    segment_seconds: float = AUDIOSET_SECONDS
    output: str = "sigmoid"  # or softmax, over all of its classes

    @property
    def rate(self) -> int:
        return self.description.rate

    def describe(self) -> list[dict[str, Any]]:
        return [make_description(self, self.kind) | {"input": self.description.input}]

    def summarize(self) -> str:
        window_text = (
            "" if self.context_seconds is None else f", {self.context_seconds:g} s at a time"
        )
        return (
            f"{self.name}: {self.kind}, {self.description.input} at {self.rate / 1000:g} kHz"
            f"{window_text}, digest {self.digest}, {len(self.classes)} classes"
        )

    def make_scorer(self, running: ScoringOptions) -> HostScorer:
        refuse_other_types(running, self.name)
        return HostScorer(self.run, self.rate, self.takes_batches, running.count_padding)


def load(kind: str, path: str) -> FileTeacher:
    """Opens the teacher in a file of kind "onnx" or "tflite", or of its description.

    It scores noise once, and raises UserError for anything that would fail later.
    """
    description = model_description.find_description(path)
    runtime = {"onnx": _open_onnx, "tflite": _open_tflite}[kind](description)
    description = _complete(_apply_export_info(description, runtime.info), runtime.shape)
    run, takes_batches = _make_runner(description, runtime)
    noise = make_quiet_noise(description.rate * 2, 0, 1)["audio"] / np.float32(32_768)
    num_outputs = run(noise).shape[1]
    check_scores(run(noise), os.fspath(description.file))
    classes = _find_classes(description, runtime, num_outputs)
    content = hashlib.sha256(description.file.read_bytes()).hexdigest()
    patch_seconds = description.patch and _compute_patch_seconds(description)
    return FileTeacher(
        kind,
        description.file.stem,
        classes,
        description,
        run,
        takes_batches,
        patch_seconds or None,
        files.json_digest([kind, content, description.as_json(), list(classes)]),
        float(runtime.info.get("segment_seconds", AUDIOSET_SECONDS)),
        str(runtime.info.get("output", "sigmoid")),
    )


def _apply_export_info(description: Description, info: dict[str, Any]) -> Description:
    """Adds the rate of an export of ours, and the front end of one without (`--input=logmel`)."""
    rate = info.get("sample_rate")
    if isinstance(rate, int) and not description.is_given:
        description = dataclasses.replace(description, rate=rate)
    if description.is_given or info.get("input") != "logmel":
        return description
    if "network" in info:  # another one than MobileNetV2
        raise UserError(f"{description.file} has no front end: export it with --input=waveform")
    frontend = info.get("frontend", {})
    top_db = 0.0 if frontend.get("top_db_over") == "none" else float(frontend.get("top_db", 0.0))
    spectrum = dataclasses.replace(host_logmel.PSL_JAX, top_db=top_db)
    return dataclasses.replace(description, input="logmel", spectrum=spectrum)


def _compute_patch_seconds(description: Description) -> float:
    """Computes the length of a patch in seconds."""
    if description.spectrum is None:
        return description.patch / description.rate
    return (
        (description.patch - 1) * description.spectrum.hop + description.spectrum.window
    ) / description.rate


def _complete(description: Description, shape: tuple[int | None, ...]) -> Description:
    """Completes a description from the input's shape: YAMNet's spectrogram, sizes of patches."""
    sizes = [size for size in shape if size != 1]
    if (
        description.spectrum is None
        and not description.is_given
        and sizes[-1:] == [host_logmel.YAMNET.bands]
        and _YAMNET_FRAMES in sizes
    ):
        description = dataclasses.replace(description, input="logmel", spectrum=host_logmel.YAMNET)
    if description.input == "waveform":
        if len(shape) > 3 or sum(size != 1 for size in shape[1:]) > 1:
            raise UserError(
                f"{description.file}: its input {_format_shape(shape)} is no waveform; describe it "
                f'in {description.file}.toml (docs/TEACHERS.md), such as logmel = "panns"'
            )
        size = shape[-1]
    else:
        assert description.spectrum is not None
        free_sizes = [size for size in shape[1:] if size != 1]
        if description.spectrum.bands not in free_sizes or len(free_sizes) != 2:
            raise UserError(
                f"{description.file}: its input {_format_shape(shape)} is no spectrogram of "
                f"{description.spectrum.bands} bands: expected [batch, frames, bands], or with an "
                "axis of 1 besides"
            )
        size = free_sizes[0] if free_sizes[1] == description.spectrum.bands else free_sizes[1]
    patch = description.patch or size or 0
    if size and description.patch and description.patch != size:
        raise UserError(
            f"{description.file}: its input {_format_shape(shape)} takes {size} at a time, and the "
            f"description says patch = {description.patch}: is its rate another one?"
        )
    known_hops = {_YAMNET_SAMPLES: _YAMNET_HOP, _YAMNET_FRAMES: _YAMNET_FRAMES // 2}
    hop = description.patch_hop or (known_hops.get(patch, max(patch // 2, 1)) if patch else 0)
    return dataclasses.replace(description, patch=patch, patch_hop=hop)


def _make_runner(description: Description, runtime: Runtime) -> tuple[host_scorer.Run, bool]:
    """Makes a function of waveforms to probabilities; tells whether it takes several at once."""
    shape = runtime.shape
    takes_batches = len(shape) > 1 and shape[0] is None
    fill_value = 0.0
    if description.spectrum is not None:
        fill_value = float(
            description.spectrum(np.zeros(description.rate, np.float32), description.rate).min()
        )

    def compute_inputs(waveforms: np.ndarray) -> np.ndarray:
        if description.spectrum is None:
            return (
                waveforms * np.float32(description.scale) if description.scale != 1 else waveforms
            )
        return np.stack(
            [description.spectrum(waveform, description.rate) for waveform in waveforms]
        )

    def score(inputs: np.ndarray) -> np.ndarray:
        """Scores [n, size] or [n, frames, bands]."""
        if takes_batches:
            return _pool(runtime.run(_reshape(inputs, shape)), len(inputs))
        return np.concatenate([_pool(runtime.run(_reshape(row[None], shape)), 1) for row in inputs])

    def run(waveforms: np.ndarray) -> np.ndarray:
        inputs, num_waveforms = compute_inputs(waveforms), len(waveforms)
        if description.patch:
            windows = host_scorer.cut_windows(
                inputs, description.patch, hop=description.patch_hop, fill_value=fill_value
            )
            scores = score(windows.reshape(-1, *windows.shape[2:]))
        else:
            scores = score(inputs)
        scores = scores.astype(np.float32)
        if description.outputs == "logits":
            scores = 1 / (1 + np.exp(-scores))
        means: np.ndarray = scores.reshape(num_waveforms, -1, scores.shape[-1]).mean(axis=1)
        return means

    return run, takes_batches


def _reshape(inputs: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """Reshapes [n, size] or [n, frames, bands] for the input: axes of 1, bands before frames."""
    if len(shape) == 1:
        return np.asarray(inputs[0])
    free_sizes = [size for size in shape[1:] if size != 1]
    if inputs.ndim == 3 and free_sizes[0] == inputs.shape[2] and free_sizes[1] != inputs.shape[2]:
        inputs = inputs.swapaxes(1, 2)
    sizes = iter(inputs.shape[1:])
    num_ones = len(shape) - 1 - (inputs.ndim - 1)  # axes of 1
    full_shape = []
    for size in shape[1:]:
        if size == 1 and num_ones:
            full_shape.append(1)
            num_ones -= 1
        else:
            full_shape.append(next(sizes))
    return np.ascontiguousarray(inputs.reshape(len(inputs), *full_shape), np.float32)


def _pool(output: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns outputs [rows, classes]; outputs over time become their mean."""
    num_classes = output.shape[-1]
    rows = np.asarray(output, np.float32).reshape(num_rows, -1, num_classes)
    return np.asarray(rows.mean(axis=1))


def _find_classes(description: Description, runtime: Runtime, count: int) -> tuple[str, ...]:
    named = description.classes if isinstance(description.classes, tuple) else ()
    if names := named or (
        _get_names(runtime.info.get("classes")) if not description.classes else None
    ):
        if len(names) != count:
            raise UserError(f"{description.file} has {count} classes, and {len(names)} are named")
        return tuple(names)
    listed = description.classes if isinstance(description.classes, str) else None
    return class_lists.classes_beside(description.file, count, listed)


def _format_shape(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _check_one_input(names: Sequence[str], file: pathlib.Path) -> None:
    if len(names) != 1:
        raise UserError(
            f"{file} has {len(names)} inputs ({', '.join(names)}): expected one, a waveform or a "
            "spectrogram"
        )


def _check_rate(info: Any, description: Description) -> None:
    """Raises UserError where the file itself names another rate than its description."""
    file_rate = info.get("sample_rate") if isinstance(info, dict) else None
    if isinstance(file_rate, int) and description.is_given and file_rate != description.rate:
        raise UserError(
            f"{description.file} hears {file_rate} Hz, and its description says {description.rate}"
        )


# --- Runtimes -------------------------------------------------------------------------------------


def _open_onnx(description: Description) -> Runtime:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(description.file, "onnxruntime", "export") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = os.cpu_count() or 1
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(description.file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own kinds of errors, for damaged files of any kind
        reason = f"{error}".partition("\n")[0]
        raise UserError(f"{description.file} cannot be opened by onnxruntime: {reason}") from error
    inputs, outputs = session.get_inputs(), [tensor.name for tensor in session.get_outputs()]
    _check_one_input([tensor.name for tensor in inputs], description.file)
    source = inputs[0]
    if source.type != "tensor(float)":
        raise UserError(
            f"{description.file}: its input is of {source.type}, expected tensor(float)"
        )
    output = _choose_output(description, outputs)
    metadata = session.get_modelmeta().custom_metadata_map
    info = {key: _parse_json(value) for key, value in metadata.items()}
    _check_rate(info, description)
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in source.shape)
    return Runtime(shape, lambda x: session.run([output], {source.name: x})[0], info)


def _choose_output(description: Description, names: Sequence[str]) -> str:
    if description.output and description.output not in names:
        raise UserError(
            f"{description.file} has no output {description.output!r}: it has {', '.join(names)}"
        )
    return description.output or (
        "clip_probabilities" if "clip_probabilities" in names else names[0]
    )


def _open_tflite(description: Description) -> Runtime:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingPackageError(description.file, "ai-edge-litert", "export") from error
    content = description.file.read_bytes()
    # An interpreter belongs to one thread at a time.
    idle_interpreters: queue.SimpleQueue[Any] = queue.SimpleQueue()
    try:
        for _ in range(os.cpu_count() or 1):
            interpreter = Interpreter(model_content=content, num_threads=1)
            (source, *_) = interpreter.get_input_details()
            if (signature := source["shape_signature"]).min(initial=1) < 1:
                # Free sizes are 1 until they are known: too few samples for a front end.
                trial_shape = np.where(signature < 1, description.rate, signature)
                trial_shape[0] = 1
                interpreter.resize_tensor_input(source["index"], trial_shape)
            interpreter.allocate_tensors()
            idle_interpreters.put(interpreter)
    except Exception as error:
        reason = f"{error}".partition("\n")[0]
        raise UserError(f"{description.file} cannot be opened as TFLite: {reason}") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    _check_one_input([tensor["name"] for tensor in inputs], description.file)
    source = inputs[0]
    if source["dtype"] != np.float32:
        dtype = np.dtype(source["dtype"]).name
        raise UserError(f"{description.file}: its input is of {dtype}, expected float32")
    info = _read_attached_info(description.file)
    _check_rate(info, description)
    rank = (
        min(len(tensor["shape"]) for tensor in outputs) if info else 0
    )  # of exports: that of clips
    first = next((i for i, tensor in enumerate(outputs) if len(tensor["shape"]) == rank), 0)
    if description.output:
        first = [tensor["name"] for tensor in outputs].index(
            _choose_output(description, [tensor["name"] for tensor in outputs])
        )
    output_index = outputs[first]["index"]

    def run(x: np.ndarray) -> np.ndarray:
        interpreter = idle_interpreters.get()
        try:
            if tuple(interpreter.get_input_details()[0]["shape"]) != x.shape:
                interpreter.resize_tensor_input(source["index"], x.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(source["index"], x)
            interpreter.invoke()
            return np.asarray(interpreter.get_tensor(output_index))
        finally:
            idle_interpreters.put(interpreter)

    signature = source["shape_signature"]
    # One row a call: interpreters work side by side, which needs no batch.
    shape = tuple(None if size < 1 else int(size) for size in signature)
    if len(shape) > 1:
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


def _parse_json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _get_names(value: Any) -> tuple[str, ...] | None:
    is_list_of_names = (
        isinstance(value, list) and value and all(isinstance(name, str) for name in value)
    )
    return tuple(value) if is_list_of_names else None
