"""Decisions of people: their table, and which labels follow from them."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import MemorySource, make_index, make_probabilities, write_soft_labels

from psl_jax.audio.segments import Segmentation
from psl_jax.data.clip_index import UNKNOWN
from psl_jax.data.corrections import Corrections
from psl_jax.data.decision_table import Decision, DecisionTable, drop_undone
from psl_jax.data.segment_loader import Segments
from psl_jax.runtime.errors import UserError

HEADER = "filename,onset,offset,label,decision,who,when,chosen\n"


def corrections(*rows):
    """Of (onset, offset, decision) or (onset, offset, decision, who) on the first class."""
    made = [Decision("-clip_0", *row[:2], "class 0", *(*row[2:], "ann")[:2]) for row in rows]
    return Corrections(tuple(drop_undone(made)))


def values(found, seconds, hop=None, clip_seconds=10):
    """What holds for each segment of a clip, as characters: 1, 0, "?" or "-" for nothing."""
    index = make_index([2], int(clip_seconds * 16_000))
    segments, classes, numbers = found.find_values(index, Segmentation(seconds, hop))
    assert not classes.any()
    count = Segmentation(seconds, hop).count_segments(index.num_samples[0])
    shown = ["-"] * int(count)
    for segment, value in zip(segments.tolist(), numbers.tolist(), strict=True):
        shown[segment] = "?" if math.isnan(value) else f"{value:g}"
    return "".join(shown)


@pytest.mark.parametrize(
    ("rows", "of_2_5_and_10_s"),
    [
        ([(2, 4, "yes")], "-1---/1-/1"),
        ([(0, 5, "no")], "00---/0-/-"),
        ([(0, 4, "no"), (4, 10, "no")], "00000/00/0"),
        ([(0, 10, "yes")], "-----/--/1"),
        ([(4, 6, "unsure")], "--?--/--/-"),
        # Of one person the last decision counts, also on another stretch.
        ([(2, 4, "yes"), (0, 10, "no")], "00000/00/0"),
        ([(0, 10, "no"), (2, 4, "yes")], "01000/10/1"),
        ([(2, 4, "no"), (0, 10, "yes")], "-0---/--/1"),
        ([(2, 4, "yes"), (2, 4, "unsure")], "-?---/--/-"),
        ([(2, 4, "yes"), (2, 4, "undo")], "-----/--/-"),
        ([(2, 4, "no"), (2, 4, "yes"), (2, 4, "undo")], "-0---/--/-"),
        # Of several that of most; else it is unknown.
        ([(2, 4, "yes", "ann"), (2, 4, "no", "bo")], "-?---/?-/?"),
        ([(2, 4, "yes", "ann"), (2, 4, "no", "bo"), (2, 4, "yes", "cy")], "-1---/1-/1"),
        ([(2, 4, "yes", "ann"), (2, 4, "unsure", "bo")], "-1---/1-/1"),
        ([(2, 4, "yes", "ann"), (0, 10, "no", "bo")], "0?000/?0/?"),
    ],
)
def test_a_decision_holds_for_segments_of_any_length(rows, of_2_5_and_10_s):
    found = corrections(*rows)
    assert "/".join(values(found, seconds) for seconds in (2, 5, 10)) == of_2_5_and_10_s


def test_a_no_to_all_others_is_one_to_classes_without_an_answer():
    index = make_index([1], 64_000, num_classes=4)
    answers = [("class 0", "yes"), ("class 1", "unsure"), ("class 2", "no"), ("*", "no")]
    lines = [Decision("-clip_0", 2, 4, *answer, "ann") for answer in answers]
    segments, classes, numbers = Corrections(tuple(lines)).find_values(index, Segmentation(2.0))
    assert segments.tolist() == [1] * 4 and classes.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(numbers, [1, np.nan, 0, 0])
    later = (*lines, Decision("-clip_0", 0, 4, "class 3", "yes", "bo"))
    assert Corrections(later).correct(index).weak_labels().tolist() == [[1, 0, 0, 1]]


def test_segments_that_overlap_and_a_clip_that_ends_within_one():
    assert values(corrections((2, 4, "yes")), 4, hop=1) == "111----"
    # The last segment of 2 s ends with the clip, at 9 s.
    assert values(corrections((8, 9, "no")), 2, clip_seconds=9) == "----0"
    assert values(corrections((8, 10, "yes")), 2, clip_seconds=9.5) == "----1"


def test_a_no_of_one_person_says_nothing_of_the_parts_of_a_yes_of_others():
    rows = [(2, 4, "yes", "ann"), (2, 4, "yes", "cy"), (0, 10, "no", "bo")]
    assert values(corrections(*rows), 1) == "00??000000"
    assert values(corrections((0, 10, "yes", "ann"), (2, 4, "no", "bo")), 2) == "-0---"


spans = st.tuples(st.integers(0, 9), st.integers(1, 10)).filter(lambda x: x[0] < x[1])


@given(st.lists(st.tuples(spans, st.sampled_from(["yes", "no"])), max_size=6))
def test_true_decisions_give_true_labels(drawn):
    """Of a class that sounds from 3 to 4 s: no label of any segment is wrong."""

    def sounds(begin, end):
        return begin < 4 and end > 3

    rows = [(*span, "yes" if sounds(*span) else "no") for span, _ in drawn]
    for seconds in (1, 2, 5, 10):
        for number, value in enumerate(values(corrections(*rows), seconds)):
            assert value in ("-", f"{sounds(number * seconds, (number + 1) * seconds):d}")


def test_labels_are_replaced_where_soft_and_weak_ones_are_joined(tmp_path):
    index = make_index([2, 1], [64_000, 48_000, 64_000])
    segmentation = Segmentation(1.0)
    soft = make_probabilities(index, segmentation)
    stored = write_soft_labels(tmp_path, index, segmentation, soft)
    lines = [
        Decision("-clip_1", 1, 2, "class 2", "yes", "ann"),
        Decision("-clip_1", 0, 3, "class 1", "no", "ann"),
        Decision("sub/-clip_2.wav", 2, 4, "CLASS 0", "no", "ann"),
        Decision("-clip_0", 0, 1, "class 0", "unsure", "ann"),
    ]
    found = Corrections(tuple(lines))
    corrected = found.correct(index)
    # The weak label of the second clip is 1, which sounds nowhere in it.
    assert [np.flatnonzero(row).tolist() for row in corrected.weak_labels()] == [[0], [2], [2]]
    source = MemorySource(index).with_index(corrected)
    segments = Segments(source, segmentation, stored, 0.5, found)
    labels = segments.describe(np.arange(len(segments)))["labels"]
    plain = Segments(MemorySource(index).with_index(corrected), segmentation, stored, 0.5)
    expected = plain.describe(np.arange(len(plain)))["labels"].copy()
    expected[4:7, 1] = 0
    expected[5, 2] = 1
    expected[9:11, 0] = 0
    expected[0, 0] = UNKNOWN
    assert segments.has_unknown and not plain.has_unknown
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(segments.describe(np.array([5, 0]))["labels"], expected[[5, 0]])


def test_recordings_are_found_by_their_clips_and_events_over_a_border_in_neither():
    index = make_index([4], 160_000, [[], [], [], []])
    ids = ["yard@0", "yard@10", "pond", "yard@20"]  # no decision is about the last clip
    index = dataclasses.replace(index, ids=np.array(ids))
    lines = [
        Decision("north/yard.wav", 12, 14, "class 1", "yes", "ann"),
        Decision("yard", 8, 12, "class 2", "yes", "ann"),
        Decision("D:\\north\\pond.wav", 1, 2, "class 1", "yes", "ann"),
        Decision("yard@0", 0, 10, "class 1", "no", "ann"),
        Decision("pond", 0, 20, "class 0", "no", "ann"),
    ]
    found = Corrections(tuple(lines)).find_values(index, Segmentation(10.0))
    rows = list(zip(*(part.tolist() for part in found), strict=True))
    assert rows == [(0, 1, 0.0), (1, 1, 1.0), (2, 0, 0.0), (2, 1, 1.0)]


def test_each_decision_is_a_line_that_a_killed_process_has_written(tmp_path):
    path = tmp_path / "new folder" / "corrections.csv"
    program = f"""
import os, signal
from psl_jax.data.decision_table import DecisionTable
table = DecisionTable({str(path)!r}, "Ann")
row = {{"filename": "a, b.wav", "onset": 1 / 3, "offset": 2.0, "label": "Bell"}}
table.append(**row, decision="yes", chosen="random")
table.append(**row, decision="no")
table.undo()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    lines = path.read_text().splitlines(keepends=True)
    assert lines[0] == HEADER and len(lines) == 4
    assert lines[1].startswith('"a, b.wav",0.333,2.0,Bell,yes,Ann,20')
    (left,) = Corrections.read(str(path)).decisions
    assert (left.decision, left.who, left.chosen) == ("yes", "Ann", "random")
    table = DecisionTable(path, "Ann")
    assert table.undo() == left and table.undo() is None
    # Tables of two people, also put one after the other; and a file that ends within a line.
    other = tmp_path / "other.csv"
    other.write_text(path.read_text() + HEADER + "c.wav,0,1,Bell,yes,Bo")
    answer = {"filename": "c.wav", "onset": 0, "offset": 1, "label": "Bell", "decision": "no"}
    DecisionTable(other, "Cy").append(**answer)
    both = Corrections.read(f"{path}, {other}").decisions
    assert [(d.who, d.decision) for d in both] == [("Bo", "yes"), ("Cy", "no")]
    renamed = other.rename(tmp_path / "Cy, Bo.csv")
    assert Corrections.read(str(renamed)).decisions[-2:] == both


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.wav,0,2,Bell,maybe,Ann,", "line 2: the decision is 'maybe', expected one of yes, no"),
        ("a.wav,2,2,Bell,yes,Ann,", "line 2: '2' to '2', expected onset and offset in seconds"),
        ("a.wav,0,2,Be", "line 2: the decision is ''"),
        ("a.wav,0,2,*,unsure,Ann,", "line 2: unsure to the label \\*, all other classes"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, row, said):
    path = tmp_path / "corrections.csv"
    path.write_text(HEADER + row)
    with pytest.raises(UserError, match=said):
        Corrections.read(str(path))


def test_what_has_no_effect_is_said():
    index = make_index([1], 160_000)
    good = Decision("-clip_0", 0, 2, "class 0", "yes", "ann")
    of_bo = good._replace(who="bo", decision="no")
    lines = [good, of_bo, good._replace(filename="x.wav"), good._replace(label="clas 0")]
    files, classes, people = Corrections(tuple(lines), "c.csv").describe_problems([index])
    assert files.startswith(
        "c.csv: 1 of 4 decisions are about files that these data (train) lack, and"
    )
    assert "1 labels are no class of the data" in classes and "'clas 0' (near: class 0" in classes
    assert "1 labels are unknown, because people disagree" in people
    assert people.endswith("counts: 'class 0' at 0 to 2 s of -clip_0")
    assert Corrections((good,)).describe_problems([index]) == []
    with pytest.raises(UserError, match="none of its 1 decisions is about a file of these data"):
        Corrections((good._replace(filename="x"),)).describe_problems([index])
    index = dataclasses.replace(make_index([2], 160_000), ids=np.array(["yard@0", "yard@10"]))
    for row in ((8, 12, "class 0", "yes", "ann"), (28, 29, "class 0", "no", "ann")):
        problem, *_ = Corrections((Decision("yard", *row),)).describe_problems([index])
        assert "1 decisions lie outside the clips, or are" in problem
    index = dataclasses.replace(make_index([1], 160_000), ids=np.array(["yard"]))
    names = "north/yard.wav", "south\\yard.wav"
    alike = Corrections(tuple(Decision(name, 2, 4, "class 0", "no", "ann") for name in names))
    with pytest.raises(UserError, match="'yard' in the folders north and south"):
        alike.describe_problems([index])


def test_lines_are_added_to_tables_of_the_own_form_alone(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_text("filename;onset;offset;label;decision;who;when\na.wav;0;2;Dog;yes;ann;\n")
    assert Corrections.read(str(path)).decisions
    with pytest.raises(UserError, match="no line can be added"):
        DecisionTable(path, "Ann")
