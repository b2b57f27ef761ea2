"""psl-jax evaluate and psl-jax relabel, as a person gives them."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import small_experiments
import synthetic_data
from small_experiments import CLASSES

from psl_jax import UserError
from psl_jax.audio.segments import Segmentation
from psl_jax.commands import evaluate, relabel
from psl_jax.data import split_index_files
from psl_jax.data.soft_labels import SoftLabels, missing_shards
from psl_jax.data.source import Source
from psl_jax.scoring import evaluation
from psl_jax.scoring.scorer import Scorer
from psl_jax.weights.load_model import load_model

BEAM = "--beam_options=--runner=DirectRunner"
TWO_WORKERS = "--direct_num_workers=2 --direct_running_mode=multi_processing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """DATA: two splits; MODEL: of more classes than the data, in another order."""
    folder = tmp_path_factory.mktemp("model_on_data")
    index = synthetic_data.make_index(
        [4, 0, 3], [32_000, 20_000, 9_000, 5_000, 32_000, 20_000, 9_000]
    )
    assert index.classes == CLASSES
    (folder / "data").mkdir()
    synthetic_data.write_prepared(folder / "data", index, synthetic_data.make_audio(index), "eval")
    small_experiments.save_model(folder / "model", ("other", *CLASSES[::-1]), seed=3)
    small_experiments.save_model(folder / "same", CLASSES, seed=3, name="same")
    return folder


def run(command, *arguments):
    return command.main(command.parse([command.__name__, *map(str, arguments)]))


def of_arrays(path):
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize("segments", ["training", "0.5", "whole"])
def test_scores_are_those_of_an_experiment(folder, tmp_path, segments, capsys):
    options = (f"--segment_seconds={segments}", f"--out={tmp_path}")
    run(evaluate, folder / "same", folder / "data", *options)
    source = Source.open(folder / "data", "eval")
    seconds = {"training": 1.0, "whole": 2.0}.get(segments) or float(segments)
    model = load_model(folder / "same")
    scorer = Scorer(model.folded, model.info.front_end)
    expected = evaluation.score_clips(scorer, source, Segmentation(seconds), 64)
    found = of_arrays(tmp_path / "scores.npz")
    np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found["targets"], source.index.weak_labels())
    assert found["ids"].tolist() == source.index.ids.tolist()
    assert tuple(found["classes"]) == CLASSES
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    told = "whole" if segments == "whole" else seconds
    assert metrics["segment_seconds"] == told and metrics["num_clips"] == 7
    assert f"{100 * metrics['mAP']:.2f} %" in capsys.readouterr().out


def test_classes_are_found_by_name(folder, tmp_path):
    model = load_model(folder / "model")
    chosen = model.for_classes(CLASSES)
    for name, value in model.variables.params["classifier"].items():
        found = chosen.variables.params["classifier"][name]
        np.testing.assert_array_equal(found, np.asarray(value)[..., [3, 2, 1]])
    run(evaluate, folder / "model", folder / "data", f"--out={tmp_path}")
    source = Source.open(folder / "data", "eval")
    scorer = Scorer(model.folded, model.info.front_end)
    index = source.index
    object.__setattr__(index, "classes", model.classes)  # so that all four columns come out
    every = evaluation.score_clips(scorer, source, Segmentation(1.0), 64)
    found = of_arrays(tmp_path / "scores.npz")["scores"]
    np.testing.assert_allclose(found, every[:, [3, 2, 1]], rtol=0, atol=1e-6)


def test_a_class_that_the_model_does_not_know_is_named(folder):
    model = load_model(folder / "model")
    with pytest.raises(UserError, match=r"1 of the 2 .*such as 'class O' \(near: class \d"):
        model.for_classes(("class 1", "class O"))


def test_events_beside_those_of_another_tagger(folder, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(folder / "data", data)
    arguments = (folder / "same", data, f"--out={tmp_path / 'out'}")
    with pytest.raises(UserError, match="'eval' has no true events"):
        run(evaluate, *arguments, "--events")
    run(evaluate, *arguments)
    index = split_index_files.load_index(data, "eval")
    events = {"event_offsets": np.array([0, 1, 2, 2, 2, 2, 2, 2])}
    events["event_times"] = np.array([[0.5, 1.5], [0.2, 1.0]], np.float32)
    events["event_values"] = np.array([0, 1], np.int32)
    index = dataclasses.replace(index, **events)
    index.save(split_index_files.index_path(data, "eval"))
    first, second = index.ids[:2]
    table = tmp_path / "other.csv"
    table.write_text(
        f"file,onset,offset,label,score\n{first}.wav,0.5,1.5,class 0,0.7\n"
        f"{second},0.2,1,class 1,0.9\n{second},0.2,1,class 0,0.3\n"
    )
    (tmp_path / "again").mkdir()
    again = shutil.copy(table, tmp_path / "again")
    with pytest.raises(UserError, match="other is the name of another tagger"):
        run(evaluate, *arguments, f"--scores={table}", f"--scores={again}", "--dry_run")
    run(evaluate, *arguments, "--events", f"--scores={table}")
    printed = capsys.readouterr().out
    assert "PSDS1" in printed and "the lowest score in the table is 0.3" in printed
    ours, theirs = (
        json.loads((tmp_path / "out" / place / "metrics.json").read_text())
        for place in (".", "comparison/other")
    )
    assert theirs["event_F1"] == pytest.approx((2 / 3 + 1) / 2)  # class 0 has an event too many
    assert theirs["num_events"] == 2 and theirs["PSDS1"] > 0.5
    assert 0 <= ours["PSDS2"] <= 1 and ours["median_filter"] == 1
    rows = csv.DictReader((tmp_path / "out/per_class.csv").read_text().splitlines())
    assert [row["PSDS1"] == "" for row in rows] == [False, False, True]
    results = json.loads((tmp_path / "out/comparison/results.json").read_text())
    assert [row["name"] for row in results["experiments"]] == ["same", "other"]
    assert {"low", "high"} == results["experiments"][1]["over_reference"].keys()
    page = (tmp_path / "out/comparison/report.html").read_text()
    assert "segment F1" in page and "the lowest score in the table is 0.3" in page
    assert "segment F1" in (tmp_path / "out/report.html").read_text()


def test_other_results_are_not_overwritten(folder, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.json").write_text('{"mAP": 0.9}')
    arguments = (folder / "same", folder / "data")
    with pytest.raises(UserError, match="run holds results of another model and split"):
        run(evaluate, *arguments, f"--out={tmp_path / 'run'}")
    (tmp_path / "run/metrics.json").rename(tmp_path / "run/config.json")
    with pytest.raises(UserError, match="run is the folder of a run"):
        run(evaluate, *arguments, f"--out={tmp_path / 'run'}")
    out = f"--out={tmp_path / 'out'}"
    run(evaluate, *arguments, out)
    capsys.readouterr()
    run(evaluate, *arguments, out)
    assert "mAP" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"results of another segment_seconds\. Give another --out"):
        run(evaluate, *arguments, out, "--segment_seconds=0.5")
    (tmp_path / "data").mkdir()
    index = synthetic_data.make_index([2], 16_000)
    audio = synthetic_data.make_audio(index)
    synthetic_data.write_prepared(tmp_path / "data", index, audio, "eval")
    with pytest.raises(UserError, match="results of another clip_ids_sha256"):
        run(evaluate, folder / "same", tmp_path / "data", out)


@pytest.mark.parametrize("command", [evaluate, relabel])
def test_a_dry_run_tells_and_writes_nothing(folder, tmp_path, command, capsys):
    out = tmp_path / "out"
    options = ("--split=eval", "--segment_seconds=0.5", f"--out={out}", "--dry_run")
    run(command, folder / "model", folder / "data", *options)
    told = capsys.readouterr().out
    assert "7 clips" in told and "int16 [32, 8000]" in told and not out.exists()


def test_labels_are_those_of_an_experiment_and_can_be_shared(folder, tmp_path, capsys):
    out, hop, expected = tmp_path / "labels", 0.25, [5, 2, 1, 1]
    options = ("--split=eval", "--segment_seconds=1", f"--hop_seconds={hop}", f"--out={out}")
    run(relabel, folder / "model", folder / "data", *options)
    assert "clips without any" in capsys.readouterr().out
    source = Source.open(folder / "data", "eval")
    digest = load_model(folder / "model").for_classes(CLASSES).digest
    segmentation = Segmentation(1.0, hop or None)
    labels = SoftLabels.open(out, source.index, segmentation, teacher_digest=digest)
    _, soft, counts = labels.read_shard(0)
    assert counts.tolist() == expected and soft.dtype == np.float16

    settings = small_experiments.settings(
        folder / "data",
        labels="soft",
        hop_seconds=hop,
        teacher=str(folder / "model"),
        soft_labels_dir=str(out),
    )
    before = {path: path.stat().st_mtime_ns for path in out.rglob("labels-*")}
    one = small_experiments.run(settings, tmp_path / "run")
    assert one.train_segments == segmentation.count_segments(source.index.num_samples).sum()
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("labels-*")}


def test_labels_are_made_as_the_options_say(folder, tmp_path):
    options = ("--split=eval", "--segment_seconds=1", f"--out={tmp_path}")
    run(relabel, folder / "model", folder / "data", *options, "--count_padding")
    assert json.loads((tmp_path / "manifest.json").read_text())["count_padding"] is True
    with pytest.raises(UserError, match=r"count_padding differs: expected False, found True"):
        run(relabel, folder / "model", folder / "data", *options)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--segment_seconds=ten",), "expected training, whole, or seconds"),
        (("--split=nowhere",), "no split 'nowhere'; its splits are"),
        (("--scores=none.csv",), "none.csv is not there"),
        (("--scores=same.csv",), "same is the name of another tagger"),
        (("--median_filter=7",), "--median_filter smooths what --events evaluates"),
        (("--batch_size=-1",), "--batch_size is -1, expected a number at least 0"),
        (("--batch_size=2000000000",), "--batch_size=2000000000 takes more than "),
    ],
)
def test_wrong_arguments_are_told_plainly(folder, tmp_path, arguments, told, capsys):
    with pytest.raises((UserError, SystemExit)) as caught:
        run(evaluate, folder / "same", folder / "data", f"--out={tmp_path}", *arguments)
    assert told in capsys.readouterr().err + str(caught.value)
    assert not list(tmp_path.iterdir())


def test_beam_completes_what_relabel_began(folder, tmp_path):
    pytest.importorskip("apache_beam", reason="needs Apache Beam")
    arguments = (folder / "same", folder / "data", "--split=eval", "--segment_seconds=0.5")
    run(relabel, *arguments, f"--out={tmp_path / 'whole'}")
    written = read_files(tmp_path / "whole")
    (tmp_path / "begun").mkdir()
    for name in (min(written), "manifest.json"):
        shutil.copy(tmp_path / "whole" / name, tmp_path / "begun")
    assert missing_shards(tmp_path / "begun")
    run(relabel, *arguments, f"--out={tmp_path / 'begun'}", BEAM)
    assert read_files(tmp_path / "begun") == written


# A teacher that kills the first process in which it scores segments, which last half a second.
DEADLY = """
import os, pathlib, signal
import numpy as np

def tag(waves):
    if waves.shape[1] == 8000:
        try:
            pathlib.Path(__file__).with_name("killed").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        except FileExistsError:
            pass
    return np.abs(waves).mean(axis=1, keepdims=True) * np.float32([0.1, 0.2, 0.3])

tag.classes = ["class 0", "class 1", "class 2"]
"""


def test_what_a_killed_beam_worker_left_is_completed(folder, tmp_path, monkeypatch):
    """One of two workers is killed; relabel or Beam writes what is missing, to the same bytes."""
    pytest.importorskip("apache_beam", reason="needs Apache Beam")
    (tmp_path / "deadly_teacher.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = ["python:deadly_teacher:tag", str(folder / "data"), "--split=eval"]
    arguments += ["--segment_seconds=0.5"]
    command = [sys.executable, "-m", "psl_jax", "relabel", *arguments]
    command += [f"--out={tmp_path / 'by_beam'}", f"{BEAM} {TWO_WORKERS}"]
    pipeline = subprocess.Popen(command, start_new_session=True)
    try:
        while not (tmp_path / "killed").exists():
            assert pipeline.poll() is None
            time.sleep(0.1)
    finally:
        os.killpg(pipeline.pid, signal.SIGKILL)  # it would wait for the killed worker without end
        pipeline.wait()
    assert missing_shards(tmp_path / "by_beam")
    shutil.copytree(tmp_path / "by_beam", tmp_path / "by_relabel")
    run(relabel, *arguments, f"--out={tmp_path / 'whole'}")
    for name, options in (("by_relabel", ()), ("by_beam", (BEAM,))):
        run(relabel, *arguments, f"--out={tmp_path / name}", *options)
        assert read_files(tmp_path / name) == read_files(tmp_path / "whole"), name


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
