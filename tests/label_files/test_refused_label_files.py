"""Label files that cannot be right: refused in words, and nothing is left or overwritten."""

import json
import pickle
import sys

import label_data
import numpy as np
import pytest
from label_data import CLASSES, IDS, SEGMENTATION, all_rows, bring_in, run, write_table

from psl_jax.networks.class_lists import AUDIOSET_CSV
from psl_jax.runtime.errors import UserError

h5py = pytest.importorskip("h5py", reason="needs the extra corpora")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra corpora")


def with_first(rows, value):
    return [[*rows[0][:2], value, 0, 0], *rows[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-2], "no labels for 2 segments of 2 of the 7 clips of 'train': 012"),
        (lambda rows: [*rows, [IDS[5], 4, 0, 0, 0]], "segment 4, and with 1 s it has 1 "),
        (lambda rows: [*rows, [IDS[5], 0.5, 0, 0, 0]], "lines 2 to 14: .*9a has segment 0.5, exp"),
        (lambda rows: with_first(rows, 4.5), "4.5 is no probability.*--values=log"),
        (lambda rows: with_first(rows, "nan"), "lines 2 to 13: NaN is no label"),
        (lambda rows: with_first(rows, ""), "line 2: could not convert"),
        (lambda rows: [rows[0][:3], *rows[1:]], "line 2: 3 fields, expected 5"),
        (lambda rows: [[f"q{r[0]}", *r[1:]] for r in rows], "labels of other clips: q--PJHxphWEs"),
    ],
)
def test_a_table_that_cannot_be_right_leaves_nothing(tmp_path, data, change, message):
    table = write_table(tmp_path / "t.csv", change(all_rows()))
    out = tmp_path / "labels"
    with pytest.raises(UserError, match=message):
        bring_in(table, data, out)
    assert list(out.iterdir()) == []
    bring_in(write_table(table, all_rows()), data, out)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([("nan", 1)], "clip YabcdefghiJ has a row from nan to 1 s: expected two times in seconds"),
        ([(1, 0)], "has a row from 1 to 0 s"),
        ([(30, 40)], "no segment's middle lies in the times of any row. Are they seconds from the"),
        ([(0, 1e3), (1e3, 2e3), (2e3, 3e3)], "most rows begin past the end of .*milliseconds"),
    ],
)
def test_times_that_cannot_be_right(tmp_path, data, times, message):
    """What --missing=weak would else replace without a word."""
    rows = [[IDS[1], *span, 0.1, 0.2, 0.3] for span in times]
    table = write_table(tmp_path / "t.csv", rows, ("clip", "onset", "offset", *CLASSES))
    with pytest.raises(UserError, match=message):
        bring_in(table, data, tmp_path / "labels", "--missing=weak")


def test_a_class_twice_in_a_row(tmp_path, data):
    pa = pytest.importorskip("pyarrow")
    row = {"filename": [IDS[0]], "start": [0.0], "end": [1.0]}
    parquet.write_table(
        pa.table(row | {"idxs": [[0, 1, 0]], "prob": [[0.5, 0.2, 0.1]]}), tmp_path / "s.parquet"
    )
    with pytest.raises(UserError, match="rows 0 to 0: a row has a class twice"):
        bring_in(tmp_path / "s.parquet", data, tmp_path / "labels", "--format=sat")


def test_values_that_are_no_numbers(tmp_path, data):
    """pyarrow's error of a conversion that there is not is neither an OSError nor a ValueError."""
    pa = pytest.importorskip("pyarrow")
    row = {"filename": [IDS[0]], "start": [0.0], "end": [1.0]}
    table = pa.table(row | {"idxs": [[{"class": 0}]], "prob": [[0.5]]})
    parquet.write_table(table, tmp_path / "s.parquet")
    with pytest.raises(UserError, match=r"s\.parquet is damaged, or no such file as expected: "):
        bring_in(tmp_path / "s.parquet", data, tmp_path / "labels", "--format=sat")


def test_lengths_that_are_none(tmp_path, data):
    table = write_table(tmp_path / "t.csv", all_rows())
    for option, seconds in (("segment", "inf"), ("hop", "nan"), ("shortest_segment", "-1")):
        with pytest.raises(UserError, match=f"--{option}_seconds.*expected "):
            bring_in(table, data, tmp_path / "labels", f"--{option}_seconds={seconds}")


def test_times_of_other_segments(tmp_path, data):
    index = label_data.index()
    label_data.write_labels(tmp_path / "labels", index, SEGMENTATION)
    run("export", tmp_path / "labels", data, "--split=train", f"--out={tmp_path / 't.parquet'}")
    with pytest.raises(UserError, match=r"segment 1 has the onset 1 s, and that of .* 2 s is 2 s"):
        bring_in(tmp_path / "t.parquet", data, tmp_path / "back", seconds=2)


def test_segments_without_a_row_may_have_weak_labels(tmp_path, data, capsys):
    table = write_table(tmp_path / "t.csv", all_rows()[:-2])
    bring_in(table, data, tmp_path / "labels", "--missing=weak")
    assert "2 segments of 2 clips had no row" in capsys.readouterr().out
    index = label_data.index()
    found = label_data.read(tmp_path / "labels", index, SEGMENTATION)
    np.testing.assert_array_equal(found[5, 0], index.weak_labels()[5])
    np.testing.assert_allclose(found[4, 0], [0.1, 0.2, 0.3], atol=1e-3)


def test_classes_without_a_column(tmp_path, data):
    rows = [row[:3] for row in all_rows()]
    table = write_table(tmp_path / "t.csv", rows, ("clip", "segment", "Speech "))
    with pytest.raises(UserError, match=r"lacks 2 of the data's 3 classes: Vehicle horn"):
        bring_in(table, data, tmp_path / "labels")
    bring_in(table, data, tmp_path / "labels", "--unmapped=weak")
    index = label_data.index()
    found = label_data.read(tmp_path / "labels", index, SEGMENTATION)
    np.testing.assert_allclose(found[:, 0, 0], 0.1, atol=1e-3)
    np.testing.assert_array_equal(found[:, 0, 1:], index.weak_labels()[:, 1:])
    with pytest.raises(UserError, match="names its classes itself: leave out --classes"):
        bring_in(table, data, tmp_path / "more", f"--classes={AUDIOSET_CSV}")
    near = write_table(tmp_path / "near.csv", rows, ("clip", "segment", "Dogs"))
    with pytest.raises(UserError, match=r"none of the data's classes\. It has Dogs"):
        bring_in(near, data, tmp_path / "more")


def test_labels_of_another_file_are_not_mixed_in(tmp_path, data):
    bring_in(write_table(tmp_path / "a.csv", all_rows()), data, tmp_path / "labels")
    bring_in(write_table(tmp_path / "same.csv", all_rows()), data, tmp_path / "labels")
    other = [[*row[:2], 0.9, 0.9, 0.9] for row in all_rows()]
    with pytest.raises(UserError, match="holds soft labels for something else"):
        bring_in(write_table(tmp_path / "b.csv", other), data, tmp_path / "labels")
    manifest = json.loads((tmp_path / "labels/manifest.json").read_text())
    assert manifest["origin"]["kind"] == "imported" and manifest["origin"]["files"] == ["a.csv"]


class Code:
    """A pickle of it prints when it is read."""

    def __reduce__(self):
        return print, ("code was run",)


def test_an_index_with_code_in_it_is_refused(tmp_path, data, capsys):
    np.save(tmp_path / "e.npy", np.zeros((7, 527), np.float32))
    (tmp_path / "e.pkl").write_bytes(pickle.dumps({"a": Code()}))
    with pytest.raises(UserError, match=r"e\.pkl is no index of file names: it names builtins"):
        bring_in(tmp_path / "e.npy", data, tmp_path / "labels")
    assert "code was run" not in capsys.readouterr().out
    for wrong in (pickle.dumps(dict.fromkeys(IDS, 7)), pickle.dumps(list(IDS)), b"h0"):
        (tmp_path / "e.pkl").write_bytes(wrong)
        with pytest.raises(UserError, match=r"e\.pkl is no index of file names"):
            bring_in(tmp_path / "e.npy", data, tmp_path / "labels")


def test_an_array_without_its_index_or_classes_and_an_archive(tmp_path, data):
    np.save(tmp_path / "e.npy", np.zeros((7, 527), np.float32))
    with pytest.raises(UserError, match=r"e\.pkl: there is no index of file names.*--index"):
        bring_in(tmp_path / "e.npy", data, tmp_path / "labels")
    np.save(tmp_path / "e.npy", np.full((7, 527), 0.5, np.float32))
    (tmp_path / "e.pkl").write_bytes(pickle.dumps(dict(zip(IDS, range(7), strict=True))))
    with pytest.raises(UserError, match=r"all are from 0 to 1.*--values=probabilities"):
        bring_in(tmp_path / "e.npy", data, tmp_path / "labels")
    np.save(tmp_path / "e.npy", np.zeros((7, 5), np.float32))
    with pytest.raises(UserError, match="has 5 classes and does not name them"):
        bring_in(tmp_path / "e.npy", data, tmp_path / "labels")
    with open(tmp_path / "e.npy", "wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(UserError, match=r"is an archive \(\.npz\)"):
        bring_in(tmp_path / "e.npy", data, tmp_path / "labels")


def test_an_option_of_another_format_is_refused(tmp_path, data):
    table = write_table(tmp_path / "t.csv", all_rows())
    with pytest.raises(UserError, match="--index means nothing for --format=csv"):
        bring_in(table, data, tmp_path / "labels", "--index=names.txt")


@pytest.mark.parametrize(("library", "name"), [("h5py", "a.h5"), ("pyarrow", "a.parquet")])
def test_a_missing_library_is_named(tmp_path, data, monkeypatch, library, name):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"needs {library}, .*: pip install -e '\.\[corpora\]'"):
        bring_in(tmp_path / name, data, tmp_path / "labels")


@pytest.mark.parametrize("name", ["a.parquet", "a.h5", "a.npy", "a.hdf5"])
def test_a_damaged_file_is_named(tmp_path, data, name):
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=name):
        bring_in(tmp_path / name, data, tmp_path / "labels")
