"""Names of teachers, and classes that are matched."""

import numpy as np
import pytest
from synthetic_data import make_quiet_batch

from psl_jax.runtime.errors import UserError
from psl_jax.scoring.settings import RelabelSettings
from psl_jax.teachers import open_teacher
from psl_jax.teachers.open_teacher import TeacherName
from psl_jax.teachers.teacher import Teacher, map_classes


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a+b").mkdir()
    (tmp_path / "x.onnx").touch()
    of = open_teacher.parse_name
    assert of("runs/teacher") == TeacherName("run", "runs/teacher")
    assert of("a+b") == TeacherName("run", "a+b")
    assert of("x.onnx") == TeacherName("onnx", "x.onnx")
    assert of("mn:b.pt") == TeacherName("mn", "b.pt")
    assert of("python:m:f") == TeacherName("python", "m:f")
    assert open_teacher.find_missing("mn:a.pt") == "a.pt"
    assert open_teacher.find_missing("python:m:f") is None
    assert open_teacher.find_missing("a+b") is None
    for bad in ("mn:", ""):
        with pytest.raises(UserError, match="expected a run folder, or one of"):
            of(bad)


class FakeScorer:
    """Scores that do not depend on the audio."""

    where = "nothing"

    def __init__(self, scores):
        self.scores = np.array(scores, np.float32)

    def fitting(self, batch_size, seconds):
        return batch_size or 2

    def __call__(self, batches):
        for batch in batches:
            yield batch, np.tile(self.scores, (len(batch["audio"]), 1))


def fake_teacher(name, scores, classes):
    entry, digest = {"name": name}, f"digest of {name}"
    return Teacher(name, classes, 16_000, digest, entry, name, lambda *_: FakeScorer(scores))


@pytest.fixture
def opened(monkeypatch):
    teachers = {
        "a": fake_teacher("a", [0.2, 0.8, 0.4], ("Dog", "Cat", "Bark")),
        "b": fake_teacher("b", [0.6, 0.1], ("Cat", "Dog")),
        "nan": fake_teacher("nan", [np.nan, 0.1], ("Cat", "Dog")),
    }
    monkeypatch.setattr(open_teacher, "load_teacher", lambda name, **_: teachers[name.where])
    return open_teacher.open_teacher


def scores_of(teacher):
    ((_, found),) = teacher.make_scorer()([make_quiet_batch(1000, 2)])
    return found[0]


def test_classes_that_a_teacher_lacks(opened, tmp_path):
    classes = ("Dog", "Bark", "engine")
    with pytest.raises(UserError, match=r"a lacks 1 of the data's 3 classes: engine"):
        opened("mn:a", classes)
    teacher = opened("mn:a", classes, RelabelSettings(unmapped="weak"))
    np.testing.assert_allclose(scores_of(teacher), [0.2, 0.4, 0], rtol=1e-6)
    assert teacher.weak_classes.tolist() == [False, False, True]
    teacher = opened("mn:a", classes, RelabelSettings(unmapped="drop"))
    assert teacher.weak_classes is None and scores_of(teacher)[2] == 0
    (tmp_path / "map.csv").write_text("class,teacher_class\nanimal,Dog\nanimal,Cat\n")
    found = opened("mn:a", ("animal",), RelabelSettings(class_map=str(tmp_path / "map.csv")))
    assert scores_of(found).tolist() == [np.float32(0.8)]


def test_nan_is_refused(opened):
    with pytest.raises(UserError, match="nan gives NaN or infinite scores"):
        scores_of(opened("mn:nan", ("Dog", "Cat")))


def test_a_map_is_part_of_the_digest(opened):
    one = fake_teacher("a", [0.2, 0.8], ("x", "y"))
    digests = {
        map_classes(one, ("p", "q"), columns).digest for columns in ([(0,), (1,)], [(1,), (0,)])
    }
    assert len(digests) == 2
