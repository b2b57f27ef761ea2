"""What tables do not say: unknown labels, recordings without labels, ones that hold nothing."""

import audio_files
import pytest
from prepared_data import config, problems_of, read_split, report_of

from psl_jax.data import split_index_files
from psl_jax.preparing.prepare_corpus import prepare
from psl_jax.runtime.errors import UserError

SECONDS = 8.0  # of each recording: two clips


def source_of(folder, tables: dict[str, str], names="abcd"):
    source = folder / "source"
    audio_files.write_tones(source, *(f"{name}.wav" for name in names), seconds=SECONDS)
    for name, text in tables.items():
        (source / name).write_text(text)
    return source


def labels_of(data_dir: str) -> dict[str, str]:
    """Each clip's labels as text: + for yes, - for no, ? for unknown."""
    found = {}
    for split in split_index_files.stored_splits(data_dir):
        index = split_index_files.load_index(data_dir, split)
        for name, row in zip(index.ids.tolist(), index.weak_labels(), strict=True):
            found[name] = "".join({1: "+", 0: "-", -1: "?"}[int(value)] for value in row)
    return dict(sorted(found.items()))


EVENTS = (
    "filename,onset,offset,label\na,1,2,cat\na,5,6,dog?\nb,1,2,dog\nb,3,3.5,?\nc,,,\nd,5,6,dog\n"
)


EXPECTED = {
    # Of as many clips as have a class it is known that they lack it: those of c.
    "events_only": {"a@0": "+?", "b@0": "?+", "c@0": "--", "c@4": "--", "d@4": "?+"},
    "throughout": {
        "a@0": "+-",
        "a@4": "-?",
        "b@0": "?+",
        "b@4": "--",
        "c@0": "--",
        "c@4": "--",
        "d@0": "--",
        "d@4": "-+",
    },
}


@pytest.mark.parametrize(("annotated", "expected"), EXPECTED.items())
def test_where_no_event_is_annotated_a_class_is_unknown_or_absent(tmp_path, annotated, expected):
    source = source_of(tmp_path, {"events.csv": EVENTS})
    data_dir = prepare(config(source_dir=str(source), annotated=annotated), tmp_path)
    assert labels_of(data_dir) == expected
    details = [detail for kind, detail in problems_of(data_dir, "events.csv") if kind == "left out"]
    assert "row 3: the label dog? says that it is unsure" in details
    # TFDS and the records themselves say the same.
    splits = split_index_files.stored_splits(data_dir)
    records = {name: r for split in splits for name, r in read_split(data_dir, split).items()}
    unknown = {name: sorted(r["unknown_labels"].tolist()) for name, r in records.items()}
    assert unknown == {n: [c for c in (0, 1) if text[c] == "?"] for n, text in expected.items()}
    for split in splits:
        split_index_files.index_path(data_dir, split).unlink()
    assert labels_of(data_dir) == expected
    reports = report_of(data_dir)["splits"]
    counts = sum(reports[split]["unknown_labels"] for split in splits)
    assert counts == "".join(expected.values()).count("?")


def test_a_column_tells_which_classes_somebody_listened_for(tmp_path):
    table = "filename,onset,offset,label,annotated_classes\na,1,2,cat,cat;dog\nb,1,2,dog,dog\n"
    source = source_of(tmp_path, {"events.csv": table}, "ab")
    data_dir = prepare(config(source_dir=str(source)), tmp_path)
    assert labels_of(data_dir) == {"a@0": "+-", "a@4": "--", "b@0": "?+", "b@4": "?-"}


def test_without_known_absence_a_class_without_event_counts_as_absent(tmp_path, capsys):
    """Else nothing could be learned; and the labels are those of versions before."""
    table = "filename,onset,offset,label\na,1,2,cat\na,5,6,dog\nb,1,2,dog\n"
    source = source_of(tmp_path, {"events.csv": table}, "ab")
    data_dir = prepare(config(source_dir=str(source)), tmp_path)
    assert labels_of(data_dir) == {"a@0": "+-", "a@4": "-+", "b@0": "-+"}
    (problem,) = (p for p in report_of(data_dir)["problems"] if p["kind"] == "counted as absent")
    assert problem["detail"].startswith("cat, dog: fewer clips are known to lack the class than")
    assert "note: cat, dog: fewer" in capsys.readouterr().out
    split_index_files.load_index(data_dir, "full")
    assert "unknown_labels" not in read_split(data_dir, "full")["a@0"]


def test_tables_of_whole_recordings_and_splits_by_hand(tmp_path):
    labels = "filename,labels,annotated_classes\na,cat;dog?,\nb,,\nc,?,\nd,dog,dog\n"
    expected = {"a": "+?", "b": "--", "c": "??", "d": "?+"}
    for number, name in enumerate(("table.csv", "full.csv")):
        source = source_of(tmp_path / str(number), {name: labels})
        settings = config(source_dir=str(source), clip_seconds=10.0)
        data_dir = prepare(settings, tmp_path / str(number))
        assert labels_of(data_dir) == expected, name
    nothing_in = ("nothing in it", "row 3: no label, so no class sounds in this recording")
    assert nothing_in in problems_of(data_dir, "full.csv")


def test_of_classes_that_a_table_of_labels_lacks_events_tell_nothing(tmp_path):
    """Its labels are complete, whatever is annotated: true events must not help the training."""
    events = "filename,onset,offset,label\na,1,2,cat\na,5,6,dog\nb,1,2,dog\n"
    labels = "filename,labels\na,cat\nb,dog\nc,cat\nd,cat\n"
    source = source_of(tmp_path, {"full.csv": labels, "full_events.csv": events})
    data_dir = prepare(config(source_dir=str(source), clip_seconds=10.0), tmp_path)
    assert labels_of(data_dir) == {"a": "+-", "b": "-+", "c": "+-", "d": "+-"}


def test_recordings_that_no_row_names_are_a_split_of_their_own(tmp_path):
    names = ["north/a", "north/b", "south/c", "south/d", "east/e", "east/f"]
    table = "filename,labels\nnorth/a.wav,dog\nsouth/c.wav,dog\neast/e.wav,cat\n"
    source = source_of(tmp_path, {"labels.csv": table}, names)
    data_dir = prepare(config(source_dir=str(source), clip_seconds=10.0, unlabelled=True), tmp_path)
    # Of a site that is held out no recording is trained on.
    neighbours = {"a": "b", "c": "d", "e": "f"}
    trained_on = {neighbours[name] for name in read_split(data_dir, "full")}
    assert set(read_split(data_dir, "unlabelled")) == trained_on
    held_out = [p["file"][-5] for p in report_of(data_dir)["problems"] if p["kind"] == "held out"]
    assert set(held_out) == set(neighbours.values()) - trained_on and len(held_out) == 2
    assert {labels_of(data_dir)[name] for name in trained_on} == {"??"}
    without = prepare(config(source_dir=str(source), clip_seconds=10.0), tmp_path)
    assert "unlabelled" not in split_index_files.stored_splits(without)


def test_a_folder_without_labels_has_no_classes(tmp_path):
    source = source_of(tmp_path, {}, ["day1/a", "day2/b"])
    settings = config(source_dir=str(source), unlabelled=True)
    data_dir = prepare(settings, tmp_path)
    for split in ("unlabelled", "full", "validation", "eval"):
        index = split_index_files.load_index(data_dir, split)
        assert index.classes == () and not index.is_labelled and len(index) == 4
    assert prepare(settings, tmp_path) == data_dir
    (source / "full.csv").write_text("filename,labels\nday1/a.wav,dog\n")
    with pytest.raises(UserError, match="splits by hand"):
        prepare(settings, tmp_path)
