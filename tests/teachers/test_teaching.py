"""Teachers of other kinds at the commands and in experiments."""

import dataclasses
import json

import numpy as np
import pytest
import synthetic_data
from shared_tables import TEACHERS, needs_teachers
from small_teachers import expected, write_onnx

from psl_jax import config as config_lib
from psl_jax.audio.segments import Segmentation
from psl_jax.commands import relabel
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.experiments import suite
from psl_jax.experiments.run_folder import OtherRunError
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.run_files import Stage

LENGTHS = [32_000, 20_000, 16_000, 32_000, 32_000, 20_000, 9_000]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """DATA: a split with classes 0 to 2; a teacher that knows Dog and Cat; a map."""
    folder = tmp_path_factory.mktemp("teaching")
    index = synthetic_data.make_index([4, 3], LENGTHS)
    (folder / "data").mkdir()
    audio = synthetic_data.make_audio(index)
    synthetic_data.write_prepared(folder / "data", index, audio, "eval")
    write_onnx(folder / "t.onnx", bias=-2.0)
    (folder / "map.csv").write_text("class,teacher_class\nclass 0,Dog\nclass 1,Cat\n")
    return folder


def run(command, *arguments):
    return command.main(command.parse([command.__name__, *map(str, arguments)]))


def relabeled(folder, out, *options, teacher="t.onnx"):
    place = ("--split=eval", "--segment_seconds=1", f"--out={out}")
    mapped = (f"--class_map={folder / 'map.csv'}", "--unmapped=weak")
    run(relabel, f"onnx:{folder / teacher}", folder / "data", *place, *mapped, *options)


def labels_in(folder, out):
    """(float16 [clips, segments, classes], counts, weak labels)."""
    index = Source.open(folder / "data", "eval").index
    labels = SoftLabels.open(out, index, Segmentation(1.0))
    counts = Segmentation(1.0).count_segments(index.num_samples)
    return labels.gather(np.arange(len(index))), counts, index.weak_labels()


def heard(folder):
    """The teacher's probabilities [clips, segments, 2], computed by hand."""
    audio = synthetic_data.make_audio(Source.open(folder / "data", "eval").index)
    out = np.zeros((7, 2, 2))
    for clip, length in enumerate(LENGTHS):
        for segment in range(int(Segmentation(1.0).count_segments(length))):
            wave = audio[clip][segment * 16_000 : (segment + 1) * 16_000]
            out[clip, segment] = expected(wave[None] / 32_768, -2.0)[0]
    return out


def test_labels_are_the_teachers_and_name_it(folder, tmp_path, capsys):
    relabeled(folder, tmp_path)
    assert "2 of them mapped" in capsys.readouterr().out
    soft, counts, weak = labels_in(folder, tmp_path)
    inside = np.arange(2) < counts[:, None]
    np.testing.assert_allclose(soft[inside][:, :2], heard(folder)[inside], atol=1e-3)
    np.testing.assert_array_equal(soft[inside][:, 2], np.repeat(weak[:, 2], counts))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (entry,) = manifest["teachers"]
    assert entry["kind"] == "onnx" and entry["name"] == "t" and entry["mapped_classes"] == 2
    relabeled(folder, tmp_path)  # finished
    write_onnx(folder / "other.onnx", bias=-1.0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"teacher_digest differs"):
        relabeled(folder, tmp_path, teacher="other.onnx")
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def config_of(folder, **changes):
    config = config_lib.student("psl1s", 1.0)
    config.data.corpus, config.data.data_dir = "tfds", str(folder / "data")
    for split in ("train_split", "validation_split", "eval_split"):
        config.data[split] = "eval"
    config.teacher = f"onnx:{folder / 't.onnx'}"
    config.relabel.class_map, config.relabel.unmapped = str(folder / "map.csv"), "weak"
    config.model.width, config.train.batch_size, config.train.max_steps = 0.1, 4, 1
    config_lib.set_nested(config, changes)
    return config


def test_an_experiment_is_bound_to_its_teacher(folder, tmp_path):
    suite.run(config_of(folder), tmp_path, last_stage=Stage.TRAIN)
    soft, counts, _ = labels_in(folder, tmp_path / "soft_labels")
    inside = np.arange(2) < counts[:, None]
    np.testing.assert_allclose(soft[inside][:, :2], heard(folder)[inside], atol=1e-3)
    later, class_map = folder / "later.onnx", tmp_path / "map2.csv"
    write_onnx(later, bias=-1.5)
    class_map.write_text("class,teacher_class\nclass 0,Cat\nclass 1,Dog\n")
    for change in ({"teacher": f"onnx:{later}"}, {"relabel": {"class_map": str(class_map)}}):
        with pytest.raises(OtherRunError, match="was made with another teacher"):
            suite.run(config_of(folder, **change), tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": "onnx:nowhere.onnx"}, "there is no nowhere.onnx"),
        ({"relabel": {"class_map": "", "unmapped": "drop"}}, "none of the data's classes"),
        ({"relabel": {"unmapped": "error"}}, "lacks 1 of the data's 3 classes: class 2"),
        ({"relabel": {"when": "in_step"}}, "must be a run or an export of ours"),
        ({"teacher": "python:no_such_module_:f"}, "No module named"),
    ],
)
def test_what_cannot_teach_is_refused_before_anything_is_written(folder, tmp_path, changes, told):
    with pytest.raises(UserError, match=told) as error:
        suite.run(config_of(folder, **changes), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").rglob("*.json"))


def test_scores_that_become_nan_end_the_relabeling(folder, tmp_path, monkeypatch):
    """Whole shards stay, the one that was being written does not appear."""
    (tmp_path / "moody_tagger.py").write_text(
        "import numpy as np\n"
        "calls = []\n"
        "def tag(waves):\n"
        "    calls.append(len(waves))\n"
        "    return np.full((len(waves), 3), 0.5 if len(calls) < 7 else np.nan)\n"
        "tag.classes = ['class 0', 'class 1', 'class 2']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "labels"
    options = ("--split=eval", "--segment_seconds=1", "--batch_size=2", f"--out={out}")
    with pytest.raises(UserError, match="moody_tagger:tag gives NaN or infinite scores"):
        run(relabel, "python:moody_tagger:tag", folder / "data", *options)
    (whole,) = out.glob("labels-*")
    assert whole.name.startswith("labels-00000-of-00002")


@needs_teachers
def test_a_published_teacher_labels_data_of_other_classes(tmp_path):
    """mn04, 34 classes of soundscapes by their map."""
    pytest.importorskip("torch")
    table = (TEACHERS / "esc50_to_audioset.csv").read_text().splitlines()[1:]
    classes = tuple(line.split(",")[0] for line in table)
    index = synthetic_data.make_index([2], [32_000, 20_000], num_classes=len(classes))
    index = dataclasses.replace(index, classes=classes, split="eval")
    synthetic_data.write_prepared(tmp_path / "data", index, synthetic_data.make_audio(index))
    out = tmp_path / "labels"
    run(
        *(relabel, f"mn:{TEACHERS}/mn04_as_mAP_432.pt", tmp_path / "data", "--split=eval"),
        *(f"--class_map={TEACHERS / 'esc50_to_audioset.csv'}", "--segment_seconds=2"),
        *(f"--out={out}", "--batch_size=2"),
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert [one["name"] for one in manifest["teachers"]] == ["mn04_as_mAP_432"]
    soft = SoftLabels.open(out, index, Segmentation(2.0)).gather(np.arange(2))
    assert soft.shape == (2, 1, 34) and 0 < soft.max() < 1
