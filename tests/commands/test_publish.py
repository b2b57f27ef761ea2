"""A published folder: loads here and in transformers alone, and its card says what is known."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tagging

import psl_jax
from psl_jax.commands import publish
from psl_jax.exporting import check
from psl_jax.networks.trained_model import Thresholds
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import bootstrap, evaluation, metrics
from psl_jax.weights.orbax_folder import store_thresholds

pytestmark = pytest.mark.usefixtures("paper_network")

pytest.importorskip("safetensors")
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def run_publish(model, out, *options):
    publish.main(publish.parse(["publish", str(model), f"--out={out}", *options]))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder, and the figures that the run had."""
    root = tmp_path_factory.mktemp("publish")
    run = tagging.save(root / "run")
    store_thresholds(run, Thresholds(THRESHOLDS, {"split": "val", "f1_of": "clips"}))
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 6)) < 0.3).astype(np.uint8)
    scores = rng.random((80, 6)) + truth
    found = {"mAP": metrics.mean_average_precision(truth, scores), "num_clips": 80}
    (root / "run" / evaluation.METRICS).write_text(json.dumps(found))
    np.savez(root / "run" / evaluation.SCORES, ids=[], classes=[], scores=scores, targets=truth)
    rows = metrics.tabulate_classes(truth, scores, tagging.LABELS)
    files.write_csv(root / "run" / evaluation.PER_CLASS, metrics.PER_CLASS_HEADER, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "EXCERPT_SAMPLES", ())  # fewer programs to compile
        run_publish(run, root / "out", "--licence=CC BY 4.0", "--use=To test.")
    return root / "out", found["mAP"]


def test_it_loads(published):
    folder, _ = published
    model = psl_jax.load(folder)
    audio = tagging.recording(4.0)
    np.testing.assert_allclose(
        model.tag(audio, 16_000).frame_scores,
        tagging.tagger().tag(audio, 16_000).frame_scores,
        atol=1e-5,
    )
    assert model.thresholds == THRESHOLDS
    assert model.info.origin["licence"] == "CC BY 4.0"


def test_its_card_and_tables(published):
    folder, value = published
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert f"| mAP | {100 * value:.1f} % | " in card and "To test." in card
    assert "best F1 of clips on `val`: 0.1 to 0.6" in card and "`siren`" in card
    assert "| class | AP % | clips |" in card and "| `siren` | " in card
    for name in ("model.safetensors", "model.onnx", "labels.csv"):
        assert (folder / name).exists() and f"`{name}`" in card
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == list(tagging.LABELS)
    assert [float(row["threshold"]) for row in rows] == list(THRESHOLDS)
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    data = hub.ModelCard(card).data
    assert data.license == "cc-by-4.0" and data.library_name == "transformers"
    (result,) = data.eval_results
    assert result.metric_type == "mAP" and result.metric_value == pytest.approx(value, abs=1e-6)
    assert re.search(r"95 % interval \d+\.\d to \d+\.\d %", result.metric_name)


def test_the_interval_is_the_bootstraps():
    rng = np.random.default_rng(1)
    truth = (rng.random((200, 4)) < 0.3).astype(np.uint8)
    scores = rng.random((200, 4)) + 0.5 * truth
    low, high = bootstrap.compute_map_interval(truth, scores)
    value = metrics.mean_average_precision(truth, scores)
    again = [
        metrics.mean_average_precision(truth[i], scores[i])
        for i in (rng.integers(0, 200, 200) for _ in range(300))
    ]
    assert low < value < high
    assert high - low == pytest.approx(3.92 * np.std(again), rel=0.2)


def test_in_transformers_without_this_package(published):
    """Each recording alone, and all of unequal lengths in a batch."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder, _ = published
    recordings = [tagging.recording(seconds, seed=3) for seconds in (2.0, 0.7)]
    np.savez(folder / "audio.npz", *(audio / np.float32(32_768) for audio in recordings))
    code = (
        "import sys; sys.modules['psl_jax'] = None; sys.modules['jax'] = None\n"
        "import json; import numpy as np; from transformers import pipeline\n"
        "tag = pipeline('audio-classification', '.', trust_remote_code=True, top_k=None)\n"
        "audio = list(np.load('audio.npz').values())\n"
        "both = [tag(audio, top_k=None, batch_size=size) for size in (1, 2)]\n"
        "json.dump(both, open('tags.json', 'w'))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env=environment)
    for tags in json.loads((folder / "tags.json").read_text()):
        for audio, scores in zip(recordings, tags, strict=True):
            found = {score["label"]: score["score"] for score in scores}
            expected = tagging.network_alone(audio).mean(axis=0)
            np.testing.assert_allclose([found[x] for x in tagging.LABELS], expected, atol=1e-5)


def test_what_is_missing_is_asked_for(tmp_path):
    run = tagging.save(tmp_path / "run")
    with pytest.raises(UserError, match="--licence is missing"):
        run_publish(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").touch()
    (other / "config.json").write_text('{"model_type": "bert"}')
    for out in (run, other):
        with pytest.raises(UserError, match="holds something else"):
            run_publish(run, out, "--licence=x")


def test_killed_while_it_replaces_a_folder_no_half_of_it_is_left(tmp_path, monkeypatch):
    out = tmp_path / "out"

    def write(model, run, folder, *_):
        for name in ("config.json", "model.safetensors", "README.md"):
            (folder / name).write_text('{"model_type": "psl_jax"}')
        return {}, []

    def die(path, *_, **__):
        next(path for path in sorted(pathlib.Path(path).rglob("*")) if path.is_file()).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "publish", write)
    run = tagging.save(tmp_path / "run")
    run_publish(run, out, "--licence=x")
    monkeypatch.setattr("shutil.rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        run_publish(run, out, "--licence=x")
    assert len(list(out.iterdir())) == 3


def test_the_working_directory_may_be_the_folder(tmp_path, monkeypatch):
    run = tagging.save(tmp_path / "run")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setattr(publish, "publish", lambda *_: ({}, []))
    run_publish(run, ".", "--licence=x")
