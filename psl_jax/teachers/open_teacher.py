"""How a teacher is named on the command line and in config.teacher, and opened for a data set.

runs/teacher                     a run, an export or a published checkpoint of ours (run:...)
mn04                             published weights, downloaded once (`published_weights`)
mn:mn10_as.pt                    EfficientAT's mn, .pt or .safetensors
onnx:FILE, tflite:FILE           a file of another runtime, or its description (.toml, .json)
python:package.module:function   a callable
fitted:FILE.npz                  a classifier on what others of these say, by psl-jax fit
0.7*mn:A.pt+0.3*tflite:B.tflite  several as one
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from psl_jax.data.label_manifest import LabelRule
from psl_jax.networks.class_lists import match_classes
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of
from psl_jax.scoring.scorer import SegmentScorer
from psl_jax.teachers.ensemble import Ensemble
from psl_jax.teachers.psl_teacher import OwnTeacher
from psl_jax.teachers.teacher import Mapped, Running, Teacher, is_identity
from psl_jax.weights.published_weights import PUBLISHED, fetch

KINDS = ("run", "mn", "onnx", "tflite", "python", "fitted")
_WEIGHT = r"(?:(\d+(?:\.\d*)?|\.\d+)\*)?"
_NEXT = re.compile(rf"\+(?={_WEIGHT}(?:{'|'.join(KINDS)}):)")

_BY_SUFFIX = {".onnx": "onnx", ".tflite": "tflite", ".npz": "fitted"}


class Part(NamedTuple):
    """One teacher of a name."""

    weight: float
    kind: str
    where: str  # its file, folder or function


class Mapping(NamedTuple):
    """How a teacher's classes become the data's, see `class_map`, and several teachers one.

    Attributes:
      class_map: a CSV for all teachers, or one for each, with commas between; "": equal names.
      unmapped: error, drop or weak.
      mean: of an ensemble: probabilities or logits.
    """

    class_map: str = ""
    unmapped: str = "error"
    mean: str = "probabilities"


class Opened(NamedTuple):
    """A teacher for the data's classes.

    Attributes:
      teacher: whose classes are the data's.
      weak: bool [classes], those that keep their weak labels; None: none.
    """

    teacher: Teacher
    weak: np.ndarray | None


def parts_of(name: str | os.PathLike) -> list[Part]:
    """The teachers that a name names. Raises UserError for a weight of 0 or no name."""
    text = os.fspath(name)
    if text and path_of(text).exists():
        return [Part(1.0, _BY_SUFFIX.get(os.path.splitext(text)[1], "run"), text)]
    ends = [found.start() for found in _NEXT.finditer(text)]
    pieces = [text[a:b] for a, b in zip([0, *(e + 1 for e in ends)], [*ends, None], strict=True)]
    return [_part(piece.strip(), text) for piece in pieces]


def _part(piece: str, name: str) -> Part:
    found = re.fullmatch(rf"{_WEIGHT}(?:({'|'.join(KINDS)}):)?(.*)", piece, re.DOTALL)
    assert found is not None  # everything fits
    weight, kind, where = found.groups()
    if not where or (weight is not None and not float(weight) > 0):
        raise UserError(
            f"teacher {name!r}: expected a run folder, or one or more of {', '.join(KINDS[1:])} "
            "and what they are, such as mn:FILE.pt or 0.7*mn:FILE.pt+0.3*tflite:FILE.tflite"
        )
    if kind is None and where in PUBLISHED:
        kind, where = "mn", os.fspath(fetch(where))
    return Part(1.0 if weight is None else float(weight), kind or "run", where)


def joined(names: Sequence[str]) -> str:
    """Several names as the one of their ensemble."""
    if len(names) == 1:
        return names[0]
    parts = [part for name in names for part in parts_of(name)]
    return "+".join(f"{part.weight!r}*{part.kind}:{part.where}" for part in parts)


def is_foreign(name: str | os.PathLike) -> bool:
    """Whether a name is more than a run folder of ours."""
    parts = parts_of(name)
    return len(parts) > 1 or parts[0].kind != "run"


def lacking(name: str | os.PathLike) -> str | None:
    """The first file or folder of a name that is not there."""
    places = [part.where for part in parts_of(name) if part.kind != "python"]
    return next((place for place in places if not path_of(place).exists()), None)


def load_teacher(part: Part) -> Teacher:
    """One teacher with classes of its own. Raises UserError."""
    if part.kind != "run" and is_remote(part.where):
        raise UserError(
            f"{part.kind}:{part.where}: of teachers in buckets only runs and exports of ours are "
            "read. Copy it and what lies beside it (gcloud storage cp), and name the copy"
        )
    # Each kind is imported where it is asked for: most need a package of their own.
    if part.kind == "mn":
        from psl_jax.teachers import mn

        return mn.load(part.where)
    if part.kind == "run":
        from psl_jax.weights.load_model import load_model

        return OwnTeacher(load_model(part.where))
    if part.kind == "python":
        from psl_jax.teachers import python_teacher

        return python_teacher.load(part.where)
    if part.kind == "fitted":
        from psl_jax.teachers import fitted_teacher

        return fitted_teacher.load(
            part.where, lambda kind, where: load_teacher(Part(1.0, kind, where))
        )
    from psl_jax.teachers import model_files

    return model_files.load(part.kind, part.where)


def open_teacher(
    name: str | os.PathLike, classes: Sequence[str], mapping: Mapping | None = None
) -> Opened:
    """The teacher of that name for the data's classes. Raises UserError."""
    mapping = mapping or Mapping()
    parts = parts_of(name)
    maps = mapping.class_map.split(",") if mapping.class_map else [""]
    if len(maps) not in (1, len(parts)):
        raise UserError(
            f"class_map names {len(maps)} files for {len(parts)} teachers: give one, or one for "
            "each with commas between"
        )
    maps *= 1 if len(maps) == len(parts) else len(parts)
    teachers = [
        _for_classes(load_teacher(part), tuple(classes), path.strip(), mapping.unmapped)
        for part, path in zip(parts, maps, strict=True)
    ]
    known = np.stack([_has_class(one, len(classes)) for one in teachers])
    weak: np.ndarray = np.logical_not(known.any(axis=0))
    teacher = teachers[0]
    if len(teachers) > 1:
        weights = known * np.array([part.weight for part in parts])[:, None]
        teacher = Ensemble(tuple(teachers), weights, mapping.mean)
    return Opened(teacher, weak if mapping.unmapped == "weak" and weak.any() else None)


def label_scorer(teacher: Teacher, rule: LabelRule, num_devices: int | None) -> SegmentScorer:
    """What scores segments for labels by `rule`; see `Running`. Raises UserError."""
    return teacher.scorer(Running(rule.dtype, num_devices, rule.count_padding))


def _for_classes(teacher: Teacher, classes: tuple[str, ...], path: str, unmapped: str) -> Teacher:
    if isinstance(teacher, OwnTeacher) and not path and set(classes) <= set(teacher.classes):
        return teacher.for_classes(classes)
    if getattr(teacher, "output", "") == "softmax" and not set(teacher.classes) <= set(classes):
        raise UserError(
            f"{teacher.name} tells {len(teacher.classes)} classes apart with one softmax: it has "
            "no probabilities of some of them alone, and the data has not all of them"
        )
    columns = match_classes(
        teacher.classes,
        classes,
        teacher.name,
        path,
        unmapped,
        "Give a CSV class,teacher_class as class_map, or unmapped=weak (they keep their weak "
        "labels) or drop (0)",
    )
    if is_identity(columns, teacher.classes) and isinstance(teacher, OwnTeacher):
        return teacher
    return Mapped(teacher, classes, columns)


def _has_class(teacher: Teacher, classes: int) -> np.ndarray:
    return teacher.has_class if isinstance(teacher, Mapped) else np.ones(classes, bool)
