"""Runs ONNX and TFLite files as teachers, on waveforms, or on log-mel by a description."""

import dataclasses
import json
import os
import pathlib
import queue
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from psl_jax.data.label_manifest import LabelRule
from psl_jax.networks import class_lists
from psl_jax.runtime import files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.teachers import host_logmel, model_description
from psl_jax.teachers.host_scorer import HostScorer, Run, cut_windows
from psl_jax.teachers.model_description import Description
from psl_jax.teachers.teacher import (
    AUDIOSET_SECONDS,
    Teacher,
    check_scores,
    describe,
    make_quiet_noise,
    refuse_other_types,
)

_YAMNET_FRAMES = 96
_HOPS = {15_600: 7680, _YAMNET_FRAMES: 48}  # YAMNet's patches, every 0.48 s, in samples or frames


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

    @property
    def takes_batches(self) -> bool:
        return len(self.shape) > 1 and self.shape[0] is None


def load(kind: str, path: str) -> Teacher:
    """Opens the teacher in a file of kind "onnx" or "tflite", or of its description.

    It scores noise once, and raises UserError for anything that would fail later.
    """
    given = model_description.find_description(path)
    runtime = {"onnx": _open_onnx, "tflite": _open_tflite}[kind](given)
    description = _complete(_apply_export_info(given, runtime.info), runtime.shape)
    file, rate, run = description.file, description.rate, _make_runner(description, runtime)
    scores = run(make_quiet_noise(1, rate))
    check_scores(scores, os.fspath(file))
    classes = _find_classes(description, runtime, scores.shape[1])
    content = files.compute_sha256(file)
    digest = files.json_digest([kind, content, description.as_json(), list(classes)])
    name, facts = file.stem, {"input": description.input}

    def open_scorer(rule: LabelRule) -> HostScorer:
        refuse_other_types(rule, name)
        return HostScorer(run, rate, rule, takes_batches=runtime.takes_batches)

    return Teacher(
        name,
        classes,
        rate,
        digest,
        describe(kind, name, classes, rate=rate, digest=digest, **facts),
        f"{name}: {kind}, {description.input} at {rate / 1000:g} kHz{_tell_patch(description)}, "
        f"digest {digest}, {len(classes)} classes",
        open_scorer,
        float(runtime.info.get("segment_seconds", AUDIOSET_SECONDS)),
        str(runtime.info.get("output", "sigmoid")),
    )


def _apply_export_info(description: Description, info: dict[str, Any]) -> Description:
    """Adds the rate of an export of ours, and the front end of one without (`--input=logmel`)."""
    file, rate = description.file, info.get("sample_rate")
    if description.is_given:
        if isinstance(rate, int) and rate != description.rate:
            raise UserError(
                f"{file} takes audio at {rate} Hz, and its description says {description.rate}"
            )
        return description
    if isinstance(rate, int):
        description = dataclasses.replace(description, rate=rate)
    if info.get("input") != "logmel":
        return description
    if "network" in info:  # another one than MobileNetV2
        raise UserError(f"{file} has no front end: export it with --input=waveform")
    frontend = info.get("frontend", {})
    top_db = 0.0 if frontend.get("top_db_over") == "none" else float(frontend.get("top_db", 0.0))
    spectrum = dataclasses.replace(host_logmel.PSL_JAX, top_db=top_db)
    return dataclasses.replace(description, input="logmel", spectrum=spectrum)


def _tell_patch(description: Description) -> str:
    """Tells how long its input is, in words; "" where any length fits."""
    num_samples, spectrum = description.patch, description.spectrum
    if num_samples and spectrum is not None:
        num_samples = (description.patch - 1) * spectrum.hop + spectrum.window
    return f", {num_samples / description.rate:g} s at a time" if num_samples else ""


def _complete(description: Description, shape: tuple[int | None, ...]) -> Description:
    """Completes a description from the input's shape: YAMNet's spectrogram, the patch, its hop.

    A patch is what the model takes at a time, in samples of a waveform or frames of a spectrogram.
    """
    sizes = [size for size in shape if size != 1]
    is_yamnet = sizes[-1:] == [host_logmel.YAMNET.bands] and _YAMNET_FRAMES in sizes
    if is_yamnet and not description.is_given and description.spectrum is None:
        description = dataclasses.replace(description, input="logmel", spectrum=host_logmel.YAMNET)
    file, spectrum = description.file, description.spectrum
    shape_text = f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
    row_sizes = [size for size in shape[1:] if size != 1]  # without the batch and axes of 1
    if spectrum is None:
        if len(shape) > 3 or len(row_sizes) > 1:
            raise UserError(
                f"{file}: its input {shape_text} is no waveform; describe it in {file}.toml "
                '(docs/TEACHERS.md), such as logmel = "panns"'
            )
        size, unit = row_sizes[0] if row_sizes else shape[-1], "samples"
    else:
        if spectrum.bands not in row_sizes or len(row_sizes) != 2:
            raise UserError(
                f"{file}: its input {shape_text} is no spectrogram of {spectrum.bands} bands: "
                "expected [batch, frames, bands] or [batch, bands, frames], with any axes of 1"
            )
        size, unit = row_sizes[0] if row_sizes[1] == spectrum.bands else row_sizes[1], "frames"
    patch = description.patch or size or 0
    if size and patch != size:
        raise UserError(
            f"{file}: its input {shape_text} takes {size} {unit} at a time, and the description "
            f"says patch = {patch}: leave patch out, and check the rate there"
        )
    hop = description.patch_hop or _HOPS.get(patch, max(patch // 2, 1))
    return dataclasses.replace(description, patch=patch, patch_hop=hop if patch else 0)


def _make_runner(description: Description, runtime: Runtime) -> Run:
    """Makes a function of waveforms [n, samples] to probabilities [n, classes]."""
    spectrum, rate, fill_value = description.spectrum, description.rate, 0.0
    if spectrum is not None:
        fill_value = float(spectrum(np.zeros(rate, np.float32), rate).min())

    def run(waveforms: np.ndarray) -> np.ndarray:
        if spectrum is None:
            inputs = waveforms * np.float32(description.scale)
        else:
            inputs = np.stack([spectrum(waveform, rate) for waveform in waveforms])
        if description.patch:
            windows = cut_windows(
                inputs, description.patch, hop=description.patch_hop, fill_value=fill_value
            )
            inputs = windows.reshape(-1, *windows.shape[2:])
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
    """Reshapes [n, size] or [n, frames, bands] for the input: axes of 1, bands before frames."""
    if len(shape) == 1:
        return np.asarray(inputs[0])
    row_sizes = [size for size in shape[1:] if size != 1]
    if inputs.ndim == 3 and row_sizes[0] == inputs.shape[2] and row_sizes[1] != inputs.shape[2]:
        inputs = inputs.swapaxes(1, 2)
    for axis, size in enumerate(shape):
        if axis and size == 1 and inputs.ndim < len(shape):
            inputs = np.expand_dims(inputs, axis)
    return np.ascontiguousarray(inputs, np.float32)


def _average_over_time(outputs: np.ndarray, num_rows: int) -> np.ndarray:
    """The means of outputs [rows, ..., classes]: float32 [rows, classes]."""
    rows = np.asarray(outputs, np.float32).reshape(num_rows, -1, outputs.shape[-1])
    return np.asarray(rows.mean(axis=1))


def _find_classes(description: Description, runtime: Runtime, count: int) -> tuple[str, ...]:
    given, names = description.classes, runtime.info.get("classes")
    if isinstance(given, tuple) and given:
        return class_lists.name_columns(given, count, description.file, "")
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not given and is_list and names:
        return class_lists.name_columns(names, count, description.file, "")
    return class_lists.classes_beside(description.file, count, str(given) if given else None)


# --- Runtimes -------------------------------------------------------------------------------------


def _check_input(names: Sequence[str], dtype: str, file: pathlib.Path) -> None:
    """Raises UserError unless a model has one input of float32."""
    if len(names) != 1:
        raise UserError(
            f"{file} has {len(names)} inputs ({', '.join(names)}): expected one, a waveform or a "
            "spectrogram"
        )
    if dtype not in ("float32", "tensor(float)"):
        raise UserError(f"{file}: its input is of {dtype}, expected float32")


def _choose_output(description: Description, names: Sequence[str], default: int) -> int:
    """Returns the number of the output that the description names. Raises UserError."""
    if not description.output:
        return default
    if description.output not in names:
        raise UserError(
            f"{description.file} has no output {description.output!r}: it has {', '.join(names)}"
        )
    return names.index(description.output)


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
    dtype = inputs[0].type if inputs else "nothing"
    _check_input([tensor.name for tensor in inputs], dtype, description.file)
    ours = "clip_probabilities"  # of an export
    default = outputs.index(ours) if ours in outputs else 0
    output = outputs[_choose_output(description, outputs, default)]
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
            signature = source["shape_signature"]
            if signature.min(initial=1) < 1:
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
    dtype = np.dtype(source["dtype"]).name
    _check_input([tensor["name"] for tensor in inputs], dtype, description.file)
    info = _read_attached_info(description.file)
    ranks = [len(tensor["shape"]) for tensor in outputs]
    default = ranks.index(min(ranks)) if info else 0  # of exports: that of clips
    names = [tensor["name"] for tensor in outputs]
    output = outputs[_choose_output(description, names, default)]["index"]

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
