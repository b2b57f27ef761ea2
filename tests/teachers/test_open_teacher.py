"""Names of teachers, and classes that are matched."""

import dataclasses

import numpy as np
import pytest
from small_teachers import expected, write_onnx
from synthetic_data import make_quiet_batch

from psl_jax.runtime.errors import UserError
from psl_jax.scoring.settings import RelabelSettings
from psl_jax.teachers import open_teacher
from psl_jax.teachers.open_teacher import TeacherName


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a+b").mkdir()
    (tmp_path / "x.onnx").touch()
    kinds = {"runs/teacher": "run", "a+b": "run", "x.onnx": "onnx"}
    names = {name: TeacherName(kind, name) for name, kind in kinds.items()}
    names |= {f"{kind}:b.c": TeacherName(kind, "b.c") for kind in ("mn", "python")}
    assert {name: open_teacher.parse_name(name) for name in names} == names
    assert open_teacher.find_missing("mn:a.pt") == "a.pt"
    assert open_teacher.find_missing("python:m:f") is None
    assert open_teacher.find_missing("a+b") is None
    assert open_teacher.find_missing("hf://USER/NAME") is None
    for bad in ("mn:", ""):
        with pytest.raises(UserError, match="expected a run folder, or one of"):
            open_teacher.parse_name(bad)


def test_classes_that_a_teacher_lacks(tmp_path):
    name = write_onnx(tmp_path / "a.onnx")
    batch = make_quiet_batch(1000, 2)
    own = expected(batch["audio"] / np.float32(32_768))  # of Dog and Cat

    def assert_scores(teacher, scores):
        ((_, found),) = teacher.make_scorer()([batch])
        np.testing.assert_allclose(found, np.stack(scores, axis=1), atol=1e-6)

    classes = ("Cat", "engine", "Dog")
    with pytest.raises(UserError, match=r"a lacks 1 of the data's 3 classes: engine"):
        open_teacher.open_teacher(name, classes)
    for unmapped, weak_classes in (("weak", [False, True, False]), ("drop", None)):
        teacher = open_teacher.open_teacher(name, classes, RelabelSettings(unmapped=unmapped))
        assert_scores(teacher, [own[:, 1], np.zeros(2), own[:, 0]])
        np.testing.assert_equal(teacher.weak_classes, weak_classes)
    class_map = tmp_path / "map.csv"
    class_map.write_text("class,teacher_class\nanimal,Dog\nanimal,Cat\n")
    mapping = RelabelSettings(class_map=str(class_map))
    found = open_teacher.open_teacher(name, ("animal",), mapping)
    assert_scores(found, [own.max(axis=1)])
    teacher = open_teacher.load_teacher(open_teacher.parse_name(name))
    softmax = dataclasses.replace(teacher, output="softmax")  # needs all of its classes
    found = open_teacher.adapt_to_classes(softmax, ("animal",), mapping)
    assert_scores(found, [own.max(axis=1)])
    with pytest.raises(UserError, match=r"1 of them are none of the data's.*psl-jax fit"):
        open_teacher.adapt_to_classes(softmax, ("Dog",), RelabelSettings())
