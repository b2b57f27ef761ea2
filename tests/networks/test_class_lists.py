"""Which classes of two lists are the same."""

import pytest
from shared_tables import TEACHERS, needs_teachers

from psl_jax.networks.class_lists import (
    audioset_classes,
    classes_beside,
    draft_class_map,
    match_classes,
    read_classes,
)
from psl_jax.runtime.errors import UserError

THEIRS = ("Dog", "Bark", "Cat", "Vehicle horn, car horn, honking")
OURS = ("cat", "dog", "Vehicle horn, car horn, honking")


def written(tmp_path, text):
    path = tmp_path / "map.csv"
    path.write_text("class,teacher_class\n" + text)
    return path


def test_names_mids_and_lines(tmp_path):
    path = written(tmp_path, "dog,Dog\ndog,Bark\ncat,Cat\n")
    assert match_classes(THEIRS, OURS, "t", path) == [(2,), (0, 1), (3,)]
    assert match_classes(THEIRS, ("/m/0bt9lr", "Cat"), "t") == [(0,), (2,)]  # the MID of Dog


def test_a_class_without_one_is_an_error_with_near_names(tmp_path):
    path = written(tmp_path, "cat,Cat\n")
    with pytest.raises(UserError, match=r"t lacks 1 of the data's 3 classes: dog \(near: Dog") as e:
        match_classes(THEIRS, OURS, "t", path)
    assert "\n" not in str(e.value)
    assert match_classes(THEIRS, OURS, "t", path, "weak") == [(2,), (), (3,)]
    with pytest.raises(UserError, match="none of the data's classes"):
        match_classes(THEIRS, ("engine",), "t", None, "drop")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("dgo,Dog", r"line 2: the data has no class 'dgo' \(near: dog\)"),
        ("dog,Brak", r"line 2: t has no class 'Brak' \(near: Bark\)"),
    ],
)
def test_unknown_classes_of_a_map_are_named(tmp_path, line, told):
    with pytest.raises(UserError, match=told):
        match_classes(THEIRS, OURS, "t", written(tmp_path, line + "\n"))
    (tmp_path / "other.csv").write_text("class,theirs\na,b\n")
    with pytest.raises(UserError, match="no column teacher_class"):
        match_classes(THEIRS, OURS, "t", tmp_path / "other.csv")


def test_a_line_without_teacher_class_leaves_the_class_without_one(tmp_path):
    path = written(tmp_path, "cat,\ndog,Dog\n")
    assert match_classes(("Dog", "cat"), ("cat", "dog"), "t", path, "drop") == [(), (0,)]


def test_a_draft_of_a_class_map():
    theirs = (
        *("Dog", "Vehicle horn, car horn, honking", "Crying, sobbing", "Footsteps"),
        *("Rain", "Child speech, kid speaking", "Blues", "Rock and roll", "Drum and bass", "Drum"),
    )
    expected = {
        "/m/0bt9lr": ("Dog", "equal"),
        "dog": ("Dog", "case"),
        "car_horn": ("Vehicle horn, car horn, honking", "synonym"),
        "Crying_and_sobbing": ("Crying, sobbing", "synonym"),
        "footstep": ("Footsteps", "spelling"),
        "RAIN": ("Rain", "case"),
        "kid speaking": ("Child speech, kid speaking", "synonym"),
        **dict.fromkeys(("engine", "rock", "bass"), ("", "")),
    }
    draft = draft_class_map(list(expected), theirs)
    assert {name: (other, match) for name, other, match in draft} == expected
    # Names that AudioSet lists as one class, where neither list has that name.
    assert draft_class_map(["honking"], ["car horn"])[0] == ("honking", "car horn", "synonym")


@needs_teachers
def test_yamnets_classes_are_known():
    names = read_classes(TEACHERS / "yamnet_class_map.csv")[0]
    assert classes_beside("yamnet.tflite", 521) == names
    assert classes_beside("mn.pt", 527) == audioset_classes()
    with pytest.raises(UserError, match="has 12 classes"):
        classes_beside("other.onnx", 12)
