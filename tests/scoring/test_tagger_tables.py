"""What other taggers wrote, as scores of the clips of a split."""

import dataclasses
import pathlib

import numpy as np
import pytest
import synthetic_data

from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime.errors import UserError
from psl_jax.scoring.tagger_tables import read_tagger_tables

BIRDNET = """Start (s),End (s),Scientific name,Common name,Confidence,File
0.0,3.0,Canis,Dog,0.8123,D:\\survey\\creek_01.WAV
1.5,4.5,Canis,Dog,0.9,D:\\survey\\creek_01.WAV
9.0,12.0,Avis,Siren,0.25,D:\\survey\\creek_01.WAV
0.0,3.0,Avis,Nobody's Rail,0.3,D:\\survey\\creek_01.WAV
0.0,3.0,Canis,Dog,0.3,D:\\survey\\creek_07.WAV
"""


@pytest.fixture
def index() -> ClipIndex:
    """A recording in two clips of 10 s, and another one."""
    index = synthetic_data.make_index([3], 160_000, num_classes=3)
    ids = np.array(["creek_01@0", "creek_01@10", "north/creek_02"])
    return dataclasses.replace(index, ids=ids, classes=("Dog", "Siren", "Rain"))


def write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_birdnets_windows_become_steps_of_their_highest_score(tmp_path, index):
    table = read_tagger_tables(write(tmp_path / "BirdNET_CombinedTable.csv", BIRDNET), index)
    np.testing.assert_allclose(table.clip_scores, [[0.9, 0.25, 0], [0, 0.25, 0], [0, 0, 0]])
    first, second, third = table.steps
    np.testing.assert_allclose(first.edges, [0, 1.5, 3, 4.5, 9, 10])
    np.testing.assert_allclose(first.scores[:, 0], [0.8123, 0.9, 0.9, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(first.scores[:, 1], [0, 0, 0, 0, 0.25])
    np.testing.assert_allclose(second.edges, [0, 2, 10])
    np.testing.assert_allclose(second.scores[:, 1], [0.25, 0])
    assert len(third.scores) == 1 and not third.scores.any()
    assert table.lowest == 0.25 and "0.25: what the tagger scored lower" in table.notes[-1]
    assert "1 rows left out: 1 labels that are no class of the data (Nobody's Rail)" in table.notes
    assert any("creek_07.WAV" in note for note in table.notes)


def test_a_folder_of_tables_of_several_forms(tmp_path, index):
    raven = (
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tCommon Name\tConfidence\t"
        "Begin Path\tFile Offset (s)\n"
        "1\tSpectrogram 1\t1\t0.0\t3.0\tDog\t0.5\t/mnt/creek_01.wav\t3.0\n"
    )
    write(tmp_path / "t" / "creek_01.BirdNET.selection.table.txt", raven)
    write(tmp_path / "t" / "creek_02.txt", "1.0\t2.5\tAvis, Siren\t0.75\n")
    write(tmp_path / "t" / "plain.csv", "file,onset,offset,label,score\ncreek_02,4,5,Rain,0.125\n")
    table = read_tagger_tables(tmp_path / "t", index)
    np.testing.assert_allclose(table.clip_scores, [[0.5, 0, 0], [0, 0, 0], [0, 0.75, 0.125]])
    np.testing.assert_allclose(table.steps[0].edges, [0, 3, 6, 10])
    np.testing.assert_allclose(table.steps[2].edges, [0, 1, 2.5, 4, 5, 10])


def test_other_endings_equal_names_and_rows_that_are_about_nothing(tmp_path, index):
    ids = np.array(["creek_01@0", "north/r.wav", "south/r.flac"])
    index = dataclasses.replace(index, ids=ids)
    rows = (
        "C:\\creek_01.FLAC,1,2,Dog,0.5\nnorth/r.wav,1,2,Dog,0.25\nD:\\South\\R.wav,1,2,Dog,0.75\n"
    )
    rows += "creek_01,30,33,Dog,0.9\ncreek_01,5,5,Dog,0.9\ncreek_01,5,6,Dog?,0.9\n"
    write(tmp_path / "t" / "t.csv", f"file,onset,offset,label,score\n{rows}")
    write(tmp_path / "t" / "._t.csv", "\0")
    table = read_tagger_tables(tmp_path / "t", index)
    assert table.clip_scores[:, 0].tolist() == [0.5, 0.25, 0.75]
    places, labels, _ = table.notes
    assert places == (
        "2 rows left out: 1 recordings, at times of no clip or without length (creek_01)"
    )
    assert labels == "1 rows left out: 1 labels that are no class of the data (Dog?)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,onset,offset,label\ncreek_01,1,2,Dog\n", "row 2: no score from 0 to 1"),
        ("file,onset,offset,label,score\ncreek_01,1,2,Dog,75\n", "row 2: no score from 0 to 1"),
        ("file,label,score\ncreek_01,Dog,0.5\n", "no times. Expected the columns file,onset"),
        ("file,onset,offset,label,score\ncreek_01,1,2,Cat,0.5\n", r"no row .*\(Cat\)"),
        ("file,onset,offset,label,score\nother.wav,1,2,Dog,0.5\n", r"no row .*\(other.wav\)"),
    ],
)
def test_tables_without_times_scores_or_known_names_are_refused(tmp_path, index, text, message):
    with pytest.raises(UserError, match=message):
        read_tagger_tables(write(tmp_path / "table.csv", text), index)
