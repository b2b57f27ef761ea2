"""Makes a teacher of a Python function: python:package.module:function."""

import hashlib
import importlib
import inspect
import pathlib
import sys

import numpy as np

from psl_jax.data.label_manifest import LabelRule
from psl_jax.networks.class_lists import audioset_classes, read_classes
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.teachers.host_scorer import HostScorer
from psl_jax.teachers.teacher import (
    Teacher,
    check_scores,
    describe,
    make_quiet_noise,
    refuse_other_types,
)


def load(where: str) -> Teacher:
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
    listed = getattr(function, "classes", None) or audioset_classes()
    classes = read_classes(listed)[0] if isinstance(listed, str | pathlib.Path) else tuple(listed)
    rate = getattr(function, "rate", 16_000)
    if not isinstance(rate, int) or not 4000 <= rate <= 192_000:
        raise UserError(f"python:{where}: its rate is {rate!r}, expected Hz, such as 32000")
    try:
        source_hash = hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
    except (OSError, TypeError):
        source_hash = ""  # compiled: its version tells
    version = str(getattr(function, "version", ""))
    digest = files.json_digest([where, source_hash, version, list(classes), rate])

    def run(waveforms: np.ndarray) -> np.ndarray:
        scores, expected = (
            np.asarray(function(waveforms), np.float32),
            (len(waveforms), len(classes)),
        )
        if scores.shape != expected:
            raise UserError(
                f"{where} gave {scores.shape} for {waveforms.shape}: expected {expected}, "
                "[batch, classes]"
            )
        return scores

    def open_scorer(rule: LabelRule, num_devices: int | None) -> HostScorer:
        refuse_other_types(rule, where)
        return HostScorer(run, rate, rule)

    check_scores(run(make_quiet_noise(2, rate)), where)
    return Teacher(
        where,
        classes,
        rate,
        digest,
        describe("python", where, classes, rate=rate, digest=digest),
        f"{where}: a Python function at {rate / 1000:g} kHz, digest {digest}, {len(classes)} "
        "classes",
        open_scorer,
    )
