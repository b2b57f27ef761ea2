"""Runs audio classifiers of the transformers library: transformers:FOLDER, or USER/NAME.

The model's own feature extractor pads each segment, as it does for transformers' pipeline. Models
run in PyTorch, on its GPU where it has one.
"""

import dataclasses
import os
import pathlib
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from psl_jax.data.label_manifest import LabelRule
from psl_jax.networks import class_lists
from psl_jax.runtime import errors, files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.settings import flatten
from psl_jax.scoring.scorer import CPU_BATCH
from psl_jax.teachers.teacher import (
    AUDIOSET_SECONDS,
    HostScorer,
    Teacher,
    check_scores,
    cut_windows,
    make_quiet_noise,
    make_teacher,
)
from psl_jax.weights import load_model

_OUTPUTS = {"multi_label_classification": "sigmoid", "single_label_classification": "softmax"}
_FUNCTIONS = ("sigmoid", "softmax", "none")
_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # the first kind that a model has is read


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model and what belongs to it."""

    model: Any  # in PyTorch, on `device`
    extractor: Any  # of its features
    device: Any
    output: str  # sigmoid, softmax, or none, of a model that gives probabilities itself
    context_seconds: float | None  # of its input; longer audio has the mean of several. None: any
    has_own_code: bool  # whether its Python code is not that of transformers

    @property
    def rate(self) -> int:
        return int(self.extractor.sampling_rate)


class TorchScorer(HostScorer):
    """Scores segments: features on all cores, the model on its device."""

    def __init__(self, classifier: Classifier, rule: LabelRule):
        # While a GPU computes one batch, the cores extract the features of the next.
        at_once = 1 if classifier.device.type == "cpu" else 2
        super().__init__(self.score, classifier.rate, rule, batches_at_once=at_once)
        self.where = f"PyTorch's {classifier.device}"
        self._classifier, self._dtype, self._batch_size = classifier, rule.dtype, CPU_BATCH
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def fitting(self, batch_size: int, seconds: float) -> int:
        self._batch_size = super().fitting(batch_size, seconds)
        return self._batch_size

    def score(self, waveforms: np.ndarray) -> np.ndarray:
        """Computes probabilities [n, classes] of [n, samples]; of long ones the mean of windows."""
        windows, seconds = waveforms[:, None], self._classifier.context_seconds
        if seconds is not None:
            size = min(round(seconds * self._classifier.rate), waveforms.shape[1])
            windows = cut_windows(waveforms, size, hop=max(size // 2, 1))
        rows = windows.reshape(-1, windows.shape[-1])  # of [n, windows, samples]
        features = list(self._pool.map(self._extract, rows))
        # Of audio longer than that, the code of CED and Dasheng mixes the clips of a batch.
        is_long = rows.shape[1] > AUDIOSET_SECONDS * self._classifier.rate
        batch_size = 1 if is_long and self._classifier.has_own_code else self._batch_size
        scores = [
            self._run_model(features[start : start + batch_size])
            for start in range(0, len(rows), batch_size)
        ]
        means: np.ndarray = np.concatenate(scores).reshape(*windows.shape[:2], -1).mean(axis=1)
        return means

    def _extract(self, waveform: np.ndarray) -> dict[str, Any]:
        extractor, rate = self._classifier.extractor, self._classifier.rate
        return dict(extractor(waveform, sampling_rate=rate, return_tensors="pt"))

    def _run_model(self, features: Sequence[dict[str, Any]]) -> np.ndarray:
        import torch

        device, output = self._classifier.device, self._classifier.output
        batch = {
            name: torch.cat([row[name] for row in features]).to(device) for name in features[0]
        }
        is_half = self._dtype == "bfloat16"
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_half):
            values = self._classifier.model(**batch).logits.float()
        if output != "none":
            values = values.softmax(-1) if output == "softmax" else values.sigmoid()
        return np.asarray(values.cpu().numpy())


def load(where: str, *, trust_remote_code: bool = False) -> Teacher:
    """Opens FOLDER, USER/NAME or USER/NAME@REVISION, with :sigmoid, :softmax or :none behind it.

    It scores noise once, and raises UserError for anything that would fail later.
    """
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        package = str(error.name)
        raise MissingPackageError(f"transformers:{where}", package, "transformers") from error
    place, given_output = _split_output(where)
    folder = _find_folder(place)
    model, extractor = _open_model(folder, place, trust_remote_code)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", jax.process_index() % torch.cuda.device_count())
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    seconds, model = _find_context_seconds(extractor), model.float().eval().to(device)
    has_own_code = not type(model).__module__.startswith("transformers.")
    classifier = Classifier(model, extractor, device, "none", seconds, has_own_code)
    values = _score_noise(classifier, place)  # [1, classes]
    classes = _find_classes(model.config, place, values.shape[1])
    output = given_output or _find_output(model.config, place, len(classes))
    if not given_output:
        _refuse_probabilities(values, place, output)
    check_scores(values if output == "none" else np.clip(values, 0, 1), place)
    classifier = dataclasses.replace(classifier, output=output)
    return make_teacher(
        "transformers",
        os.path.basename(os.path.normpath(place)),
        classes,
        lambda rule: TorchScorer(classifier, rule),
        rate=classifier.rate,
        digest=files.json_digest([_hash_files(folder), list(classes), output]),
        what=f"{type(model).__name__} of transformers, {output}",
        facts={"output": output},
        output=output,
    )


def _open_model(folder: str, place: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """Opens a model and its feature extractor. Raises UserError."""
    import transformers

    _refuse_foreign_code(folder, place)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    open_model = transformers.AutoModelForAudioClassification.from_pretrained
    open_extractor = transformers.AutoFeatureExtractor.from_pretrained
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # AST's narrowest mel bands hold no bin
            model, loading = open_model(
                folder, trust_remote_code=trust_remote_code, output_loading_info=True
            )
            extractor = open_extractor(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # its own kinds of errors, and those of a model's code
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise UserError(
                f"transformers:{place} brings Python code of its own, which would run here. Read "
                "it, and if you trust it give --trust_remote_code, in an experiment "
                "--config.relabel.trust_remote_code"
            ) from error
        raise UserError(
            f"transformers:{place} is no audio classifier: {errors.first_line(error)}"
        ) from error
    # Only training masks the spectrogram: many published files lack its vector.
    missing = sorted(key for key in loading["missing_keys"] if "masked_spec_embed" not in key)
    if missing:
        raise UserError(
            f"transformers:{place} holds no weights for {', '.join(missing[:3])}, which would be "
            "random. Is it an encoder without a classifier? Name one that was trained to classify"
        )
    return model, extractor


def _refuse_foreign_code(folder: str, place: str) -> None:
    """Raises UserError for code in another repository, whose revision the digest does not know."""
    for name in _SETTINGS:
        if (path := pathlib.Path(folder, name)).exists():
            for key, value in flatten(files.read_json(path)):
                if "auto_map" in key.split(".") and "--" in str(value):
                    raise UserError(
                        f"transformers:{place}: the auto_map of its {name} names code in another "
                        f"repository, {value}. Copy that code into the model's folder, and name it "
                        "there without repository and --"
                    )


def _score_noise(classifier: Classifier, place: str) -> np.ndarray:
    """Scores two seconds of noise. Raises UserError for a model that cannot."""
    try:
        return TorchScorer(classifier, LabelRule()).score(make_quiet_noise(1, classifier.rate))
    except Exception as error:
        raise UserError(f"transformers:{place} cannot score 2 s of noise: {error}") from error


def _refuse_probabilities(values: np.ndarray, place: str, output: str) -> None:
    """Raises UserError where the values for noise are no logits."""
    if values.min() >= 0 and values.max() <= 1:
        raise UserError(
            f"transformers:{place} gives {values.min():.2g} to {values.max():.2g} for noise, which "
            f"look like probabilities. If they are, name the teacher transformers:{place}:none; "
            f"else transformers:{place}:{output}"
        )


def is_repository(where: str) -> bool:
    """Tells whether a teacher is named by its repository, not by a folder."""
    return not os.path.isdir(_split_output(where)[0])


def _split_output(where: str) -> tuple[str, str]:
    """Splits "PLACE:sigmoid" into the place and the function; "" where no function is given."""
    place, _, output = where.rpartition(":")
    return (place, output) if place and output in _FUNCTIONS else (where, "")


def _find_folder(place: str) -> str:
    """Finds a folder, or downloads a repository once."""
    if os.path.isdir(place):
        return place
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", place):
        raise UserError(f"transformers:{place}: expected a folder, or USER/NAME of a repository")
    folder = ""
    for weights in _WEIGHTS:
        patterns = ["*.json", "*.py", weights]
        folder = load_model.fetch(f"{load_model.HUB}{place}", patterns)
        if any(pathlib.Path(folder).glob(weights)):
            break
    return folder


def _hash_files(folder: str) -> list[str]:
    """Hashes all files that the scores depend on."""
    matches = [sorted(pathlib.Path(folder).glob(pattern)) for pattern in _WEIGHTS]
    paths = next((paths for paths in matches if paths), [])
    for pattern in (*_SETTINGS, "*.py"):
        paths += sorted(pathlib.Path(folder).glob(pattern))
    return [f"{path.name} {files.compute_sha256(path)}" for path in paths]


def _find_classes(config: Any, place: str, width: int) -> tuple[str, ...]:
    """Finds the names of `width` classes in id2label, or in a list beside the model; or AudioSet's.

    Names are AudioSet's, too, where they end before its first comma: CED's code reads them so, and
    has three classes "Inside".
    """
    id2label = config.id2label or {}
    if id2label and sorted(id2label) != list(range(width)):
        raise UserError(
            f"transformers:{place} gives {width} values, and id2label of its config.json has "
            f"{len(id2label)} classes, {min(id2label)} to {max(id2label)}: expected 0 to "
            f"{width - 1}. Is it an encoder, without a classifier?"
        )
    names = [str(id2label[number]) for number in sorted(id2label)]
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return class_lists.classes_beside(os.path.normpath(place), width)
    audioset = class_lists.audioset_classes()
    if width == len(audioset) and all(
        name in (full_name, full_name.partition(",")[0])
        for name, full_name in zip(names, audioset, strict=True)
    ):
        return audioset
    return tuple(map(class_lists.clean_name, names))


def _find_output(config: Any, place: str, num_classes: int) -> str:
    if config.problem_type is None and num_classes == len(class_lists.audioset_classes()):
        return "sigmoid"  # as AST's published file lacks it
    if config.problem_type not in _OUTPUTS:
        raise UserError(
            f"transformers:{place}: the problem_type of its config.json is "
            f"{config.problem_type!r}. Several sounds at once: name the teacher "
            f"transformers:{place}:sigmoid. Exactly one of its classes: transformers:{place}"
            ":softmax"
        )
    return _OUTPUTS[config.problem_type]


def _find_context_seconds(extractor: Any) -> float | None:
    """Finds the longest input that an extractor does not truncate; None: any length.

    Where an extractor makes inputs of one size and does not say of how much audio, 10 s.
    """
    rate = extractor.sampling_rate
    if num_samples := getattr(extractor, "n_samples", None):  # Whisper's
        return float(num_samples / rate)
    if type(extractor).__name__ == "ASTFeatureExtractor":  # frames of 25 ms, every 10 ms
        return float(((extractor.max_length - 1) * 160 + 400) / rate)
    shapes = set()
    for seconds in (AUDIOSET_SECONDS, 2 * AUDIOSET_SECONDS):
        silence = np.zeros(round(seconds * rate), np.float32)
        features = extractor(silence, sampling_rate=rate, return_tensors="pt")
        shapes.add(str({name: np.shape(values) for name, values in features.items()}))
    return AUDIOSET_SECONDS if len(shapes) == 1 else None
