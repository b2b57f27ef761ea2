"""Parses the name of a teacher, as in MODEL and config.teacher, and opens it for a data set.

runs/teacher                     a run, an export or a published checkpoint of ours (run:...)
mn04                             published weights, downloaded once (`published_weights`)
mn:mn10_as.pt                    EfficientAT's mn, .pt or .safetensors
onnx:FILE, tflite:FILE           a file of another runtime
python:package.module:function   a callable
transformers:USER/NAME           an audio classifier of transformers; also a folder
fitted:FILE.npz                  a classifier on the scores of others, by psl-jax fit
mn:A.pt+tflite:B.tflite          several side by side, for psl-jax fit
"""

import dataclasses
import hashlib
import importlib
import inspect
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from psl_jax.data.label_manifest import LabelRule
from psl_jax.networks.architecture import num_parameters
from psl_jax.networks.class_lists import audioset_classes, match_classes, read_classes
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of
from psl_jax.scoring.scorer import Scorer
from psl_jax.scoring.settings import RelabelSettings
from psl_jax.teachers import combined_teachers
from psl_jax.teachers.host_scorer import HostScorer
from psl_jax.teachers.teacher import (
    Teacher,
    check_scores,
    describe,
    make_quiet_noise,
    refuse_other_types,
)
from psl_jax.weights.published_weights import PUBLISHED, fetch

KINDS = ("run", "mn", "onnx", "tflite", "python", "transformers", "fitted")
_NEXT = re.compile(rf"\+(?=(?:{'|'.join(KINDS)}):)")
_BY_SUFFIX = {".onnx": "onnx", ".tflite": "tflite", ".npz": "fitted"}


class Part(NamedTuple):
    """One teacher of a name."""

    kind: str
    where: str  # its file, folder or function


def parse_name(name: str | os.PathLike[str]) -> list[Part]:
    """Lists the teachers of a name. Raises UserError for an empty name."""
    full_name = os.fspath(name)
    if full_name and path_of(full_name).exists():
        return [Part(_BY_SUFFIX.get(os.path.splitext(full_name)[1], "run"), full_name)]
    return [_parse_part(part.strip(), full_name) for part in _NEXT.split(full_name)]


def _parse_part(part_text: str, name: str) -> Part:
    kind, _, where = part_text.partition(":")
    if kind not in KINDS:
        kind, where = "run", part_text
        if where in PUBLISHED:
            kind, where = "mn", os.fspath(fetch(where))
    if not where:
        raise UserError(
            f"teacher {name!r}: expected a run folder, or one or more of {', '.join(KINDS[1:])} "
            "and what they are, such as mn:FILE.pt or mn:FILE.pt+tflite:FILE.tflite"
        )
    return Part(kind, where)


def is_other_teacher(name: str | os.PathLike[str]) -> bool:
    """Tells whether a name is anything but a run folder of ours."""
    parts = parse_name(name)
    return len(parts) > 1 or parts[0].kind != "run"


def find_missing(name: str | os.PathLike[str]) -> str | None:
    """Finds the first file or folder of a name that does not exist."""
    paths = [part.where for part in parse_name(name) if part.kind not in ("python", "transformers")]
    return next((path for path in paths if not path_of(path).exists()), None)


def load_teacher(part: Part, *, trust_remote_code: bool = False) -> Teacher:
    """Opens a teacher with its own classes. Raises UserError."""
    if part.kind != "run" and is_remote(part.where):
        raise UserError(
            f"{part.kind}:{part.where}: of teachers in buckets only runs and exports of ours are "
            "read. Copy it and what lies beside it (gcloud storage cp), and name the copy"
        )
    # We import each kind where it is used: most need a package that others do without.
    if part.kind in ("run", "mn"):
        from psl_jax.weights.load_model import load_model

        model = load_model(part.where)
        published = model.info.origin.get("imported", {}) if part.kind == "mn" else {}
        return make_own_teacher(model, published.get("sha256", "")[:16])
    if part.kind == "python":
        return _load_function(part.where)
    if part.kind == "transformers":
        from psl_jax.teachers import transformers_teacher

        return transformers_teacher.load(part.where, trust_remote_code=trust_remote_code)
    if part.kind == "fitted":
        from psl_jax.teachers import fitted_teacher

        return fitted_teacher.load(
            part.where,
            lambda kind, where: load_teacher(
                Part(kind, where), trust_remote_code=trust_remote_code
            ),
        )
    from psl_jax.teachers import model_files

    return model_files.load(part.kind, part.where)


def make_own_teacher(model: Model, file_digest: str = "") -> Teacher:
    """Makes a teacher of a model of ours.

    file_digest: of labels said to come from a published file, mn:FILE; "": from arrays and classes.
    """
    info, digest = model.info, file_digest or model.digest
    rate, parameters = info.architecture.sample_rate, num_parameters(model.variables)
    kind = info.network if file_digest else "psl_jax"

    def open_scorer(rule: LabelRule) -> Scorer:
        return Scorer(model.folded, info.front_end, rule.dtype, count_padding=rule.count_padding)

    return Teacher(
        info.name,
        model.classes,
        rate,
        digest,
        describe(kind, info.name, model.classes, rate=rate, digest=digest, width=info.width),
        f"{info.name}: {info.architecture.title}, {len(model.classes)} classes, width "
        f"{info.width:g}, {parameters:,} parameters, digest {digest}",
        open_scorer,
        info.segment_seconds,
        model=model,
    )


def _load_function(where: str) -> Teacher:
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
    except (ImportError, AttributeError, SyntaxError) as error:
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
        scores = np.asarray(function(waveforms), np.float32)
        expected = len(waveforms), len(classes)
        if scores.shape != expected:
            raise UserError(
                f"{where} gave {scores.shape} for {waveforms.shape}: expected {expected}, "
                "[batch, classes]"
            )
        return scores

    def open_scorer(rule: LabelRule) -> HostScorer:
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


def list_classes(name: str | os.PathLike[str], settings: RelabelSettings) -> tuple[str, ...]:
    """The classes of the teacher of a name. Raises UserError."""
    part = parse_name(name)[0]
    return load_teacher(part, trust_remote_code=settings.trust_remote_code).classes


def open_teacher(
    name: str | os.PathLike[str], classes: Sequence[str], settings: RelabelSettings | None = None
) -> Teacher:
    """Opens the teacher of a name for the data's classes. Raises UserError.

    settings: how classes are matched (default: by equal names).
    """
    settings = settings or RelabelSettings()
    part, *others = parse_name(name)
    if others:
        raise UserError(
            f"{os.fspath(name)} is several teachers: name one of them, or learn the data's classes "
            "from the scores of all (psl-jax fit)"
        )
    teacher = load_teacher(part, trust_remote_code=settings.trust_remote_code)
    # Labels of a published file have its digest whatever the classes.
    model = teacher.model if teacher.model and not settings.class_map else None
    if model and teacher.digest == model.digest and set(classes) <= set(teacher.classes):
        return make_own_teacher(model.for_classes(classes))
    return adapt_to_classes(teacher, classes, settings)


def adapt_to_classes(
    teacher: Teacher, classes: Sequence[str], settings: RelabelSettings
) -> Teacher:
    """Maps a teacher to the data's classes."""
    columns = match_classes(
        teacher.classes,
        classes,
        teacher.name,
        settings.class_map,
        settings.unmapped,
        "Give a CSV class,teacher_class as class_map, or unmapped=weak (they keep their weak "
        "labels) or drop (0)",
    )
    unused = set(range(len(teacher.classes))).difference(*columns)
    if unused and teacher.output == "softmax":
        raise UserError(
            f"{teacher.name} tells {len(teacher.classes)} classes apart with one softmax, and "
            f"{len(unused)} of them are none of the data's, as {teacher.classes[min(unused)]!r}: "
            "the others alone have no probabilities. Give all of them in class_map, or "
            "learn the data's classes from its scores: psl-jax fit"
        )
    is_same = [tuple(column) for column in columns] == [(k,) for k in range(len(teacher.classes))]
    if not (is_same and teacher.model):
        teacher = combined_teachers.map_classes(teacher, classes, columns)
    lacks = np.array([not column for column in columns])
    if settings.unmapped == "weak" and lacks.any():
        teacher = dataclasses.replace(teacher, weak_classes=lacks)
    return teacher
