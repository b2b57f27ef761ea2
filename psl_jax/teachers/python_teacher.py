"""Makes a teacher of a Python function: python:package.module:function."""

import dataclasses
import hashlib
import importlib
import inspect
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from psl_jax.networks.class_lists import audioset_classes, read_classes
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.teachers.host_scorer import HostScorer
from psl_jax.teachers.teacher import (
    AUDIOSET_SECONDS,
    ScoringOptions,
    check_scores,
    make_description,
    make_quiet_noise,
    refuse_other_types,
)

_TRIED_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class FunctionTeacher:
    """See `Teacher`."""

    name: str
    classes: tuple[str, ...]
    rate: int
    digest: str
    function: Callable[[np.ndarray], Any]

    context_seconds = None
    segment_seconds = AUDIOSET_SECONDS

    def describe(self) -> list[dict[str, Any]]:
        return [make_description(self, "python")]

    def summarize(self) -> str:
        return (
            f"{self.name}: a Python function at {self.rate / 1000:g} kHz, digest {self.digest}, "
            f"{len(self.classes)} classes"
        )

    def make_scorer(self, running: ScoringOptions) -> HostScorer:
        refuse_other_types(running, self.name)
        return HostScorer(self._run, self.rate, True, running.count_padding)

    def _run(self, waveforms: np.ndarray) -> np.ndarray:
        scores = np.asarray(self.function(waveforms), np.float32)
        if scores.shape != (len(waveforms), len(self.classes)):
            raise UserError(
                f"{self.name} gave {scores.shape} for {waveforms.shape}: expected "
                f"{(len(waveforms), len(self.classes))}, [batch, classes]"
            )
        return scores


def load(where: str) -> FunctionTeacher:
    """Imports the function `module:name` of waveforms float32 [batch, samples] to probabilities.

    Attributes of the function describe it: `classes`, names or the path of a CSV (default:
    AudioSet's); `rate` in Hz (default 16,000); `version`, part of its digest beside its module's
    source. Raises UserError for one that cannot be imported, or fails on two seconds of noise.
    """
    module_name, colon, name = where.partition(":")
    if not colon or not module_name or not name:
        raise UserError(f"python:{where}: expected python:package.module:function")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as with python -m: modules of the working directory
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"python:{where}: {error}") from error
    if not callable(function):
        raise UserError(f"python:{where} is a {type(function).__name__}, expected a function")
    class_list = getattr(function, "classes", None) or audioset_classes()
    classes = (
        read_classes(class_list)[0]
        if isinstance(class_list, str | pathlib.Path)
        else tuple(class_list)
    )
    rate = getattr(function, "rate", 16_000)
    if not isinstance(rate, int) or not 4000 <= rate <= 192_000:
        raise UserError(f"python:{where}: its rate is {rate!r}, expected Hz, such as 32000")
    digest = files.json_digest(
        [where, _hash_source(module), str(getattr(function, "version", "")), list(classes), rate]
    )
    teacher = FunctionTeacher(where, classes, rate, digest, function)
    noise = make_quiet_noise(round(_TRIED_SECONDS * rate), 0)["audio"] / np.float32(32_768)
    check_scores(teacher._run(noise), where)
    return teacher


def _hash_source(module: Any) -> str:
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
    except (OSError, TypeError):
        return ""  # compiled: its version tells
