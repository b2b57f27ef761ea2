"""Soft labels edited by rules, against loops."""

import dataclasses
import json

import label_data
import numpy as np
import pytest
import synthetic_data
from label_data import run

from psl_jax.audio.segments import Segmentation
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.label_files.rules import Rules, read_ontology, read_thresholds
from psl_jax.runtime.errors import UserError

SEGMENTATION = Segmentation(1.0)
CLASSES = ("Animal", "Dog", "Bark", "Speech", "Rain")
ONTOLOGY = [
    {"id": "/m/0jbk", "name": "Animal", "child_ids": ["/x/abstract", "/m/cat"]},
    {"id": "/x/abstract", "name": "Domestic animals, pets", "child_ids": ["/m/0bt9lr"]},
    {"id": "/m/0bt9lr", "name": "Dog", "child_ids": ["/m/05tny_", "/m/howl"]},
    {"id": "/m/05tny_", "name": "Bark", "child_ids": []},
    {"id": "/m/howl", "name": "Howl", "child_ids": []},
    {"id": "/m/cat", "name": "Cat", "child_ids": []},
    {"id": "/m/09x0r", "name": "Human speech", "child_ids": []},  # by its MID: Speech
]


@pytest.fixture
def made(tmp_path):
    """An index, its data and its labels in a folder."""
    base = label_data.index(classes=CLASSES)
    index = synthetic_data.make_index([3, 0, 4], base.num_samples, num_classes=5)
    label_data.write_data(tmp_path / "data", index)
    label_data.write_labels(tmp_path / "labels", index, SEGMENTATION)
    return index


@pytest.fixture
def ontology(tmp_path):
    path = tmp_path / "ontology.json"
    path.write_text(json.dumps(ONTOLOGY))
    return path


def test_classes_below_are_found_at_any_depth(ontology):
    assert read_ontology(ontology, CLASSES) == {0: [1, 2], 1: [2]}
    assert read_ontology(ontology, ("Speech", "Howl", "Animal")) == {2: [1]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no ontology"),
        ('[{"id": "a"}]', "expected a list of {id, name, child_ids}"),
        ('[{"id": "a", "name": "x", "child_ids": []}]', "none of the data's classes"),
        ('[{"id": "a", "name": "Dog", "child_ids": ["b"]}]', "child 'b' is not among"),
        ('[{"id": "a", "name": "Dog", "child_ids": ["a"]}]', "a circle: a -> a"),
    ],
)
def test_no_ontology(tmp_path, content, message):
    (tmp_path / "o.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_ontology(tmp_path / "o.json", CLASSES)


def test_two_nodes_of_one_class_hold_together(tmp_path):
    """An older ontology may name a class twice; one by its MID."""
    nodes = [
        {"id": "/m/0jbk", "name": "Beast", "child_ids": ["a"]},  # the MID of Animal
        {"id": "z", "name": "Animal", "child_ids": ["b"]},
        {"id": "a", "name": "Dog", "child_ids": []},
        {"id": "b", "name": "Bark", "child_ids": []},
    ]
    (tmp_path / "o.json").write_text(json.dumps(nodes))
    assert read_ontology(tmp_path / "o.json", CLASSES) == {0: [1, 2]}


def test_rules_in_their_order():
    """Thresholds, weak labels, ontology: a parent below its threshold holds by its child."""
    rng = np.random.default_rng(0)
    values = rng.random((50, 5)).astype(np.float16)
    weak = (rng.random((50, 5)) < 0.2).astype(np.float32)
    rules = Rules({0: 0.9, 2: 0.5}, False, True, {0: [1, 2], 1: [2]})
    found = rules.apply(values, weak)
    for row in range(50):
        cut = [float(v) for v in values[row]]
        cut[0] = cut[0] if cut[0] >= 0.9 else 0
        cut[2] = cut[2] if cut[2] >= 0.5 else 0
        cut = [max(v, w) for v, w in zip(cut, weak[row].tolist(), strict=True)]
        cut[1] = max(cut[1], cut[2])
        cut[0] = max(cut[0], cut[1])
        assert found[row].tolist() == cut
    hard = Rules({0: 0.9, 1: 0.0}, True).apply(values, weak)
    np.testing.assert_array_equal(hard[:, 0], values[:, 0] >= np.float16(0.9))
    assert (hard[:, 1] == 1).all() and (hard[:, 2:] == values[:, 2:]).all()


def test_thresholds(tmp_path, made):
    (tmp_path / "t.csv").write_text('class,threshold\n"class 1",0.25\n')
    given = ["0.5", str(tmp_path / "t.csv"), "class 4=0.75"]
    assert read_thresholds(given, made) == {0: 0.5, 1: 0.25, 2: 0.5, 3: 0.5, 4: 0.75}
    assert read_thresholds(["/m/09x0r=0.1"], label_data.index()) == {0: 0.1}
    (tmp_path / "unnamed.csv").write_text('class,threshold\n"class 1",0.25\n,0.5\n')
    for wrong, message in (
        (str(tmp_path / "unnamed.csv"), "line 3: it names no class"),
        ("=0.5", "names no class; for all give 0.5"),
        ("class 9=0.5", "no class 'class 9'"),
        ("class 1=1.5", "'1.5', expected a number from 0 to 1"),
        ("class 1", "'class 1', expected a number"),
        ("nan", "'nan', expected a number"),
    ):
        with pytest.raises(UserError, match=message):
            read_thresholds([wrong], made)


def test_edited_labels_and_what_is_told_of_them(tmp_path, made, capsys):
    before = label_data.read(tmp_path / "labels", made, SEGMENTATION)
    files = {p: p.read_bytes() for p in (tmp_path / "labels").iterdir()}
    out = tmp_path / "edited"
    options = ("--split=train", "--union_weak", "--threshold", "class 0=0.5", f"--out={out}")
    run("edit", tmp_path / "labels", tmp_path / "data", *options)
    assert files == {p: p.read_bytes() for p in (tmp_path / "labels").iterdir()}
    after = label_data.read(out, made, SEGMENTATION)
    expected, changed, present = before.copy(), 0, [0, 0]
    weak, counts = made.weak_labels(), SEGMENTATION.counts(made.num_samples)
    for clip, count in enumerate(counts):
        for segment in range(count):
            one = expected[clip, segment]
            one[0] = one[0] if one[0] >= 0.5 else 0
            one[:] = np.maximum(one, weak[clip])
            changed += int((one != before[clip, segment]).sum())
            present[0] += int(before[clip, segment, 0] >= 0.5)
            present[1] += int(one[0] >= 0.5)
    np.testing.assert_array_equal(after, expected)
    report = json.loads((out / "label_changes.json").read_text())
    assert report["share_changed"] == pytest.approx(changed / counts.sum() / 5)
    told = report["classes"]["class 0"]
    assert [told["present_before"], told["present_after"]] == present
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["origin"]["rules"]["thresholds"] == {"class 0": 0.5}
    assert manifest["origin"]["teacher_digest"] == "t" != manifest["teacher_digest"]
    # What it was when edits got digests: theirs stay the same whatever the rule of labels gains.
    assert manifest["origin"]["made_with"] == {
        "overlap": 0.0,
        "prior": 0.0,
        "prior_recall": None,
        "top_k": 0,
        "temperature": 1.0,
        "calibrate": "none",
        "count_padding": False,
    }
    printed = capsys.readouterr().out
    assert f"changed {100 * changed / counts.sum() / 5:.2f} %" in printed

    # Other rules are other labels, also for a run that was trained on them.
    with pytest.raises(UserError, match="holds soft labels for something else"):
        run("edit", tmp_path / "labels", tmp_path / "data", "--split=train", "--union_weak",
            f"--out={out}")  # fmt: skip
    run("edit", out, tmp_path / "data", "--split=train", "--threshold=0.1", "--binary",
        f"--out={tmp_path / 'twice'}")  # fmt: skip
    twice = label_data.read(tmp_path / "twice", made, SEGMENTATION)
    np.testing.assert_array_equal(twice, after >= np.float16(0.1))


def other_weak(made):
    """The same clips, of which the first has other weak labels."""
    values = made.label_values.copy()
    values[0] = (values[0] + 1) % made.num_classes
    return dataclasses.replace(made, label_values=values)


def test_edits_of_labels_that_were_made_otherwise_are_other_labels(tmp_path, made):
    """Of one teacher; also where the data's weak labels, which the rules used, are others now."""
    data, out = tmp_path / "data", tmp_path / "edited"
    options = ("--split=train", "--union_weak", f"--out={out}")
    run("edit", tmp_path / "labels", data, *options)
    one = SoftLabelWriter(
        tmp_path / "top", made, SEGMENTATION, teacher_digest="t", format="npz",
        rule=LabelRule(top_k=2),
    )  # fmt: skip
    given = label_data.values(made, SEGMENTATION)
    for shard in one.missing:
        one.write_shard(shard, given[slice(*made.shard_offsets[shard : shard + 2])])
    with pytest.raises(UserError, match="holds soft labels for something else"):
        run("edit", tmp_path / "top", data, *options)
    label_data.write_data(data, other_weak(made))
    with pytest.raises(UserError, match="holds soft labels for something else"):
        run("edit", tmp_path / "labels", data, *options)
    with pytest.raises(UserError, match="weak labels of the clips"):
        SoftLabels.open(out, other_weak(made), SEGMENTATION)
    run("edit", tmp_path / "labels", data, "--split=train", "--threshold=0.5",
        f"--out={tmp_path / 'cut'}")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [((), "no rule"), (("--union_weak", "--binary"), "from which --threshold on")],
)
def test_rules_that_are_none(tmp_path, made, options, message):
    out = ("--split=train", f"--out={tmp_path / 'out'}")
    with pytest.raises(UserError, match=message):
        run("edit", tmp_path / "labels", tmp_path / "data", *out, *options)
    with pytest.raises(UserError, match="--out is the folder of the labels themselves"):
        run("edit", tmp_path / "labels", tmp_path / "data", f"--out={tmp_path / 'labels'}")
