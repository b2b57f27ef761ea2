"""Training on labels that no teacher on this machine made."""

import json

import label_data
import pytest
from label_data import run

from psl_jax import config as config_lib
from psl_jax.audio.segments import Segmentation
from psl_jax.experiments import suite
from psl_jax.experiments.run_folder import OtherRunError
from psl_jax.networks.class_lists import audioset_classes
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.run_files import Stage

pytestmark = pytest.mark.usefixtures("empty_figures")


def config_of(folder, labels, **changes):
    config = config_lib.student("psl1s", 1.0)  # its teacher is runs/teacher, which is not there
    splits = dict.fromkeys(("train_split", "validation_split", "eval_split"), "train")
    data = {"corpus": "tfds", "data_dir": str(folder / "data")} | splits
    small = {"model": {"width": 0.1}, "train": {"batch_size": 4, "max_steps": 2}}
    config_lib.set_nested(config, small | {"data": data, "soft_labels_dir": str(labels)} | changes)
    return config


def relabel(config, workdir):
    suite.run(config, workdir, last_stage=Stage.RELABEL)


def write_sat(path):
    """A file as SAT's, with the ten most probable classes of segments of a second."""
    numbers = [audioset_classes().index(name) for name in label_data.CLASSES]
    idxs = ";".join(map(str, numbers + [n for n in range(10, 17) if n not in numbers]))
    rows = label_data.all_rows()
    table = {
        "filename": [f"{name}.wav" for name, *_ in rows],
        "start": [float(segment) for _, segment, *_ in rows],
        "end": [segment + 1.0 for _, segment, *_ in rows],
        "idxs": [idxs for _ in rows],
        "prob": [";".join(map(str, [*scores, *[0.01] * 7])) for _, _, *scores in rows],
    }
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra corpora")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(table), path)


def test_imported_labels_need_no_teacher(tmp_path, monkeypatch):
    index, segmentation = label_data.index(), Segmentation(1.0)
    label_data.write_data(tmp_path / "data", index)
    label_data.write_labels(tmp_path / "relabeled", index, segmentation)
    write_sat(tmp_path / "sat.parquet")
    out = tmp_path / "labels"
    place = ("--split=train", "--segment_seconds=1", f"--out={out}")
    run("import", tmp_path / "sat.parquet", tmp_path / "data", "--format=sat", *place)
    before = {path: path.read_bytes() for path in out.iterdir()}

    monkeypatch.chdir(tmp_path)
    run_folder = tmp_path / "run"
    suite.run(config_of(tmp_path, out), run_folder)
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    digest = json.loads((out / "manifest.json").read_text())["teacher_digest"]
    assert json.loads((run_folder / "data.json").read_text())["teacher"] == digest
    quality = json.loads((run_folder / "label_quality.json").read_text())
    assert quality["num_segments"] == segmentation.count_segments(index.num_samples).sum()
    assert "mAP" in json.loads((run_folder / "metrics.json").read_text())

    # Labels of a relabeling whose teacher is elsewhere: where none is asked for.
    alone = config_of(tmp_path, tmp_path / "relabeled", teacher="")
    relabel(alone, tmp_path / "alone")
    assert json.loads((tmp_path / "alone/data.json").read_text())["teacher"] == "t"
    with pytest.raises(UserError, match="the teacher of 'psl1s' is 'runs/teacher'"):
        relabel(config_of(tmp_path, tmp_path / "relabeled"), tmp_path / "not")
    with pytest.raises(UserError, match=r"soft labels need a teacher.*or labels that are there"):
        relabel(config_of(tmp_path, tmp_path / "none", teacher=""), tmp_path / "not")

    # The run is bound to these labels: it does not go on with others.
    others = tmp_path / "others"
    options = ("--split=train", "--segment_seconds=1", f"--out={others}")
    run("resegment", out, tmp_path / "data", *options)
    with pytest.raises(OtherRunError, match="another teacher"):
        suite.run(config_of(tmp_path, others), run_folder)

    # What this run would relabel with says nothing of labels that it did not make.
    with pytest.raises(
        UserError, match=r"from `psl-jax labels import`.*relabel\.count_padding at its def"
    ):
        relabel(config_of(tmp_path, out, relabel={"count_padding": True}), tmp_path / "not")
    next(out.glob("labels-00002-*")).unlink()
    with pytest.raises(UserError, match=r"missing .*run `psl-jax labels import` to the end"):
        relabel(config_of(tmp_path, out), tmp_path / "not")
