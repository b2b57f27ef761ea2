"""Parses the name of a teacher, as in MODEL and config.teacher, and opens it for a data set.

runs/teacher                     a run, an export or a published checkpoint of ours (run:...)
mn04                             published weights, downloaded once (`weights.load_model`)
mn:mn10_as.pt                    EfficientAT's mn, .pt or .safetensors
onnx:FILE, tflite:FILE           a file of another runtime
python:package.module:function   a callable
transformers:USER/NAME           an audio classifier of transformers; also a folder
fitted:FILE.npz                  a classifier on the scores of others, by psl-jax fit
"""

import dataclasses
import hashlib
import importlib
import inspect
import os
import pathlib
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
from psl_jax.teachers.teacher import (
    Teacher,
    check_scores,
    is_path,
    make_opener,
    make_quiet_noise,
    make_teacher,
    map_classes,
)
from psl_jax.weights.load_model import PUBLISHED, fetch_published, load_model

KINDS = ("run", "mn", "onnx", "tflite", "python", "transformers", "fitted")
_BY_SUFFIX = {".onnx": "onnx", ".tflite": "tflite", ".npz": "fitted"}


class TeacherName(NamedTuple):
    """What a teacher is, and where."""

    kind: str  # one of KINDS
    where: str  # its file, folder or function


def parse_name(name: str | os.PathLike[str]) -> TeacherName:
    """Finds what a name means. Raises UserError for an empty name."""
    text = os.fspath(name)
    if text and path_of(text).exists():
        return TeacherName(_BY_SUFFIX.get(os.path.splitext(text)[1], "run"), text)
    kind, _, where = text.partition(":")
    if kind not in KINDS:
        kind, where = "run", text
        if where in PUBLISHED:
            kind, where = "mn", os.fspath(fetch_published(where))
    if not where:
        raise UserError(
            f"teacher {text!r}: expected a run folder, or one of {', '.join(KINDS[1:])} and what "
            "it is, such as mn:FILE.pt"
        )
    return TeacherName(kind, where)


def find_missing(name: str | os.PathLike[str]) -> str | None:
    """The file or folder of a name, where it does not exist."""
    kind, where = parse_name(name)
    return where if is_path(kind, where) and not path_of(where).exists() else None


def load_teacher(name: TeacherName, *, trust_remote_code: bool = False) -> Teacher:
    """Opens a teacher with its own classes. Raises UserError."""
    kind, where = name
    if kind != "run" and is_remote(where):
        raise UserError(
            f"{kind}:{where}: of teachers in buckets only runs and exports of ours are read. Copy "
            "it and what lies beside it (gcloud storage cp), and name the copy"
        )
    # We import each kind where it is used: most need a package that others do without.
    if kind in ("run", "mn"):
        model = load_model(where)
        published = model.info.origin.get("imported", {}) if kind == "mn" else {}
        return make_own_teacher(model, published.get("sha256", "")[:16])
    if kind == "python":
        return _load_function(where)
    if kind == "transformers":
        from psl_jax.teachers import transformers_teacher

        return transformers_teacher.load(where, trust_remote_code=trust_remote_code)
    if kind == "fitted":
        from psl_jax.teachers import fitted_teacher

        return fitted_teacher.load(
            where,
            lambda *tagger: load_teacher(TeacherName(*tagger), trust_remote_code=trust_remote_code),
        )
    from psl_jax.teachers import model_files

    return model_files.load(kind, where)


def make_own_teacher(model: Model, file_digest: str = "") -> Teacher:
    """Makes a teacher of a model of ours.

    file_digest: of labels said to come from a published file, mn:FILE; "": from arrays and classes.
    """
    info, digest = model.info, file_digest or model.digest
    parameters = num_parameters(model.variables)

    def open_scorer(rule: LabelRule) -> Scorer:
        return Scorer(model.folded, info.front_end, rule.dtype, count_padding=rule.count_padding)

    return make_teacher(
        info.network if file_digest else "psl_jax",
        info.name,
        model.classes,
        open_scorer,
        rate=info.architecture.sample_rate,
        digest=digest,
        what=f"{info.architecture.title}, width {info.width:g}, {parameters:,} parameters",
        facts={"width": info.width},
        segment_seconds=info.segment_seconds,
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

    check_scores(run(make_quiet_noise(2, rate)), where)
    return make_teacher(
        "python",
        where,
        classes,
        make_opener(run, rate, where),
        rate=rate,
        digest=digest,
        what="a Python function",
    )


def list_classes(name: str | os.PathLike[str], *, trust_remote_code: bool) -> tuple[str, ...]:
    """The classes of the teacher of a name. Raises UserError."""
    return load_teacher(parse_name(name), trust_remote_code=trust_remote_code).classes


def open_teacher(
    name: str | os.PathLike[str], classes: Sequence[str], settings: RelabelSettings | None = None
) -> Teacher:
    """Opens the teacher of a name for the data's classes. Raises UserError.

    settings: how classes are matched (default: by equal names).
    """
    settings = settings or RelabelSettings()
    teacher = load_teacher(parse_name(name), trust_remote_code=settings.trust_remote_code)
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
        teacher = map_classes(teacher, classes, columns)
    lacks = np.array([not column for column in columns])
    if settings.unmapped == "weak" and lacks.any():
        teacher = dataclasses.replace(teacher, weak_classes=lacks)
    return teacher
