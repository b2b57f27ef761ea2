"""ONNX and TFLite files as teachers: waveform in, or log-mel by a description beside them."""

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
    Running,
    check_scores,
    description,
    silence,
)

_YAMNET_SAMPLES, _YAMNET_HOP, _YAMNET_FRAMES = 15_600, 7680, 96  # 0.48 s from patch to patch


class Runtime(NamedTuple):
    """A file in its runtime.

    Attributes:
      shape: of its input; None where a size is free.
      run: an array of that shape -> the output; may be called by several threads.
      info: what an export of ours says of itself; {}: it is another file.
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
    described_by: Description
    run: host_scorer.Run
    together: bool
    context: float | None
    digest: str
    segment_seconds: float = AUDIOSET_SECONDS
    output: str = "sigmoid"  # or softmax, over all of its classes

    @property
    def rate(self) -> int:
        return self.described_by.rate

    def described(self) -> list[dict[str, Any]]:
        return [description(self, self.kind) | {"input": self.described_by.input}]

    def words(self) -> str:
        at_once = "" if self.context is None else f", {self.context:g} s at a time"
        return (
            f"{self.name}: {self.kind}, {self.described_by.input} at {self.rate / 1000:g} kHz"
            f"{at_once}, digest {self.digest}, {len(self.classes)} classes"
        )

    def scorer(self, running: Running) -> HostScorer:
        return HostScorer(self.run, self.rate, self.together, running.count_padding)


def load(kind: str, path: str) -> FileTeacher:
    """The teacher in a file of kind "onnx" or "tflite", or of its description.

    It is tried on noise: raises UserError for anything that will not work later.
    """
    about = model_description.describe(path)
    runtime = {"onnx": _open_onnx, "tflite": _open_tflite}[kind](about)
    about = _completed(_of_export(about, runtime.info), runtime.shape)
    run, together = _runner(about, runtime)
    rows = silence(about.rate * 2, 0, 1)["audio"] / np.float32(32_768)
    outputs = run(rows).shape[1]
    check_scores(run(rows), os.fspath(about.file))
    classes = _classes(about, runtime, outputs)
    content = hashlib.sha256(about.file.read_bytes()).hexdigest()
    context = about.patch and _seconds(about)
    return FileTeacher(
        kind,
        about.file.stem,
        classes,
        about,
        run,
        together,
        context or None,
        files.json_digest([kind, content, about.as_json(), list(classes)]),
        float(runtime.info.get("segment_seconds", AUDIOSET_SECONDS)),
        str(runtime.info.get("output", "sigmoid")),
    )


def _of_export(about: Description, info: dict[str, Any]) -> Description:
    """With what an export of ours without a front end (`--input=logmel`) says of that."""
    if about.given or info.get("input") != "logmel":
        return about
    told = info.get("frontend", {})
    top_db = 0.0 if told.get("top_db_over") == "none" else float(told.get("top_db", 0.0))
    spectrum = dataclasses.replace(host_logmel.OURS, top_db=top_db)
    return dataclasses.replace(about, input="logmel", spectrum=spectrum)


def _seconds(about: Description) -> float:
    """What one patch hears."""
    if about.spectrum is None:
        return about.patch / about.rate
    return ((about.patch - 1) * about.spectrum.hop + about.spectrum.window) / about.rate


def _completed(about: Description, shape: tuple[int | None, ...]) -> Description:
    """With what the input's shape tells: YAMNet's spectrogram, sizes of patches."""
    sizes = [size for size in shape if size != 1]
    if (
        about.spectrum is None
        and not about.given
        and sizes[-1:] == [host_logmel.YAMNET.bands]
        and _YAMNET_FRAMES in sizes
    ):
        about = dataclasses.replace(about, input="logmel", spectrum=host_logmel.YAMNET)
    if about.input == "waveform":
        if len(shape) > 3 or sum(size != 1 for size in shape[1:]) > 1:
            raise UserError(
                f"{about.file}: its input {_shown(shape)} is no waveform; describe it in "
                f'{about.file}.toml (docs/TEACHERS.md), such as logmel = "panns"'
            )
        size = shape[-1]
    else:
        assert about.spectrum is not None
        rest = [size for size in shape[1:] if size != 1]
        if about.spectrum.bands not in rest or len(rest) != 2:
            raise UserError(
                f"{about.file}: its input {_shown(shape)} is no spectrogram of "
                f"{about.spectrum.bands} bands: expected [batch, frames, bands], or with an axis "
                "of 1 besides"
            )
        size = rest[0] if rest[1] == about.spectrum.bands else rest[1]
    patch = about.patch or size or 0
    if size and about.patch and about.patch != size:
        raise UserError(
            f"{about.file}: its input {_shown(shape)} takes {size} at a time, and the description "
            f"says patch = {about.patch}: is its rate another one?"
        )
    known = {_YAMNET_SAMPLES: _YAMNET_HOP, _YAMNET_FRAMES: _YAMNET_FRAMES // 2}
    hop = about.patch_hop or (known.get(patch, max(patch // 2, 1)) if patch else 0)
    return dataclasses.replace(about, patch=patch, patch_hop=hop)


def _runner(about: Description, runtime: Runtime) -> tuple[host_scorer.Run, bool]:
    """Waveforms to probabilities, and whether several may go in at once."""
    shape = runtime.shape
    batched = len(shape) > 1 and shape[0] is None
    silence = 0.0
    if about.spectrum is not None:
        silence = float(about.spectrum(np.zeros(about.rate, np.float32), about.rate).min())

    def features(waves: np.ndarray) -> np.ndarray:
        if about.spectrum is None:
            return waves * np.float32(about.scale) if about.scale != 1 else waves
        return np.stack([about.spectrum(wave, about.rate) for wave in waves])

    def scores_of(inputs: np.ndarray) -> np.ndarray:
        """Of [n, size] or [n, frames, bands]."""
        if batched:
            return _pooled(runtime.run(_shaped(inputs, shape)), len(inputs))
        return np.concatenate([_pooled(runtime.run(_shaped(x[None], shape)), 1) for x in inputs])

    def run(waves: np.ndarray) -> np.ndarray:
        inputs, rows = features(waves), len(waves)
        if about.patch:
            windows = host_scorer.windows_of(inputs, about.patch, about.patch_hop, silence)
            scores = scores_of(windows.reshape(-1, *windows.shape[2:]))
        else:
            scores = scores_of(inputs)
        scores = scores.astype(np.float32)
        if about.outputs == "logits":
            scores = 1 / (1 + np.exp(-scores))
        return scores.reshape(rows, -1, scores.shape[-1]).mean(axis=1)

    return run, batched


def _shaped(inputs: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """[n, size] or [n, frames, bands] as the input wants it: axes of 1, bands before frames."""
    if len(shape) == 1:
        return inputs[0]
    rest = [size for size in shape[1:] if size != 1]
    if inputs.ndim == 3 and rest[0] == inputs.shape[2] and rest[1] != inputs.shape[2]:
        inputs = inputs.swapaxes(1, 2)
    sizes = iter(inputs.shape[1:])
    free = len(shape) - 1 - (inputs.ndim - 1)  # axes of 1
    full = []
    for size in shape[1:]:
        if size == 1 and free:
            full.append(1)
            free -= 1
        else:
            full.append(next(sizes))
    return np.ascontiguousarray(inputs.reshape(len(inputs), *full), np.float32)


def _pooled(output: np.ndarray, rows: int) -> np.ndarray:
    """[rows, classes]; of outputs over time their mean."""
    classes = output.shape[-1]
    return np.asarray(output, np.float32).reshape(rows, -1, classes).mean(axis=1)


def _classes(about: Description, runtime: Runtime, count: int) -> tuple[str, ...]:
    named = about.classes if isinstance(about.classes, tuple) else ()
    if names := named or (_names(runtime.info.get("classes")) if not about.classes else None):
        if len(names) != count:
            raise UserError(f"{about.file} has {count} classes, and {len(names)} are named")
        return tuple(names)
    listed = about.classes if isinstance(about.classes, str) else None
    return class_lists.classes_beside(about.file, count, listed)


def _shown(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _one_input(names: Sequence[str], file: pathlib.Path) -> None:
    if len(names) != 1:
        raise UserError(
            f"{file} has {len(names)} inputs ({', '.join(names)}): expected one, a waveform or a "
            "spectrogram"
        )


def _said_rate(info: Any, about: Description) -> None:
    """Raises UserError where the file itself names another rate than its description."""
    said = info.get("sample_rate") if isinstance(info, dict) else None
    if isinstance(said, int) and said != about.rate:
        raise UserError(f"{about.file} hears {said} Hz, and its description says {about.rate}")


# --- Runtimes -------------------------------------------------------------------------------------


def _open_onnx(about: Description) -> Runtime:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(about.file, "onnxruntime", "export") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = os.cpu_count() or 1
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(about.file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own kinds of errors, for damaged files of any kind
        reason = f"{error}".partition("\n")[0]
        raise UserError(f"{about.file} cannot be opened by onnxruntime: {reason}") from error
    inputs, outputs = session.get_inputs(), [one.name for one in session.get_outputs()]
    _one_input([one.name for one in inputs], about.file)
    source = inputs[0]
    if source.type != "tensor(float)":
        raise UserError(f"{about.file}: its input is of {source.type}, expected tensor(float)")
    output = _output(about, outputs)
    found = session.get_modelmeta().custom_metadata_map
    info = {key: _json(value) for key, value in found.items()}
    _said_rate(info, about)
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in source.shape)
    return Runtime(shape, lambda x: session.run([output], {source.name: x})[0], info)


def _output(about: Description, names: Sequence[str]) -> str:
    if about.output and about.output not in names:
        raise UserError(f"{about.file} has no output {about.output!r}: it has {', '.join(names)}")
    return about.output or ("clip_probabilities" if "clip_probabilities" in names else names[0])


def _open_tflite(about: Description) -> Runtime:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingPackageError(about.file, "ai-edge-litert", "export") from error
    content = about.file.read_bytes()
    idle: queue.SimpleQueue = queue.SimpleQueue()  # an interpreter belongs to one thread at a time
    try:
        for _ in range(os.cpu_count() or 1):
            interpreter = Interpreter(model_content=content, num_threads=1)
            (source, *_) = interpreter.get_input_details()
            if (signature := source["shape_signature"]).min(initial=1) < 1:
                # Free sizes are 1 until they are known: too few samples for a front end.
                tried = np.where(signature < 1, about.rate, signature)
                tried[0] = 1
                interpreter.resize_tensor_input(source["index"], tried)
            interpreter.allocate_tensors()
            idle.put(interpreter)
    except Exception as error:
        reason = f"{error}".partition("\n")[0]
        raise UserError(f"{about.file} cannot be opened as TFLite: {reason}") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    _one_input([one["name"] for one in inputs], about.file)
    source = inputs[0]
    if source["dtype"] != np.float32:
        kind = np.dtype(source["dtype"]).name
        raise UserError(f"{about.file}: its input is of {kind}, expected float32")
    info = _attached(about.file)
    _said_rate(info, about)
    rank = min(len(one["shape"]) for one in outputs) if info else 0  # of exports: that of clips
    first = next((i for i, one in enumerate(outputs) if len(one["shape"]) == rank), 0)
    if about.output:
        first = [one["name"] for one in outputs].index(
            _output(about, [one["name"] for one in outputs])
        )
    place = outputs[first]["index"]

    def run(x: np.ndarray) -> np.ndarray:
        one = idle.get()
        try:
            if tuple(one.get_input_details()[0]["shape"]) != x.shape:
                one.resize_tensor_input(source["index"], x.shape)
                one.allocate_tensors()
            one.set_tensor(source["index"], x)
            one.invoke()
            return one.get_tensor(place)
        finally:
            idle.put(one)

    signature = source["shape_signature"]
    # One row a call: interpreters work side by side, which needs no batch.
    shape = tuple(None if size < 1 else int(size) for size in signature)
    if len(shape) > 1:
        shape = (1, *shape[1:])
    return Runtime(shape, run, info)


def _attached(file: pathlib.Path) -> dict[str, Any]:
    """What an export of ours says of itself, packed at the file's end."""
    try:
        with zipfile.ZipFile(file) as archive:
            found = json.loads(archive.read("psl_jax.json"))
            return found if isinstance(found, dict) else {}
    except (zipfile.BadZipFile, KeyError, ValueError):
        return {}


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _names(value: Any) -> tuple[str, ...] | None:
    listed = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
    return tuple(value) if listed else None
