"""The export command, what it checks on, and parts of the formats by themselves."""

import json

import numpy as np
import pytest
import synthetic_data
import tagging

from psl_jax import config
from psl_jax.commands import export
from psl_jax.exporting import check
from psl_jax.networks.frontend import LogMel
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.weights import load_model


def test_other_safetensors_are_refused(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    path = tmp_path / "x.safetensors"
    path.write_text("no weights")
    with pytest.raises(UserError, match=r"cannot read .* as safetensors"):
        load_model.load_model(path)
    numpy.save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match=r"x\.safetensors .* classes is None, expected"):
        load_model.load_model(path)
    info = {"classes": ["a", "b"], "width": 0.25, "segment_seconds": 2.0}
    numpy.save_file(
        {"params.a": np.zeros(3, np.float32)}, path, {k: json.dumps(v) for k, v in info.items()}
    )
    with pytest.raises(UserError, match=r"not those of a network of width 0\.25"):
        load_model.load_model(path)


@pytest.mark.parametrize("top_db_over", ["clip", "none"])
def test_the_front_end_in_onnx(top_db_over):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from psl_jax.exporting import to_onnx

    logmel = LogMel(80.0, top_db_over)
    graph = to_onnx.GraphOperations()
    output = logmel.by_steps("x", graph)
    helper = onnx.helper
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["batch", "samples"]), (output, ["batch", "frames", 64]))
    ]
    program = helper.make_model(
        helper.make_graph(graph.nodes, "x", ends[:1], ends[1:], graph.tensors),
        opset_imports=[helper.make_opsetid("", to_onnx.OPSET)],
        ir_version=8,
    )
    session = runtime.InferenceSession(program.SerializeToString())
    audio = np.stack([check.make_synthetic_signal(2.0), np.zeros(32_000, np.float32)])
    (found,) = session.run(None, {"x": audio})
    np.testing.assert_allclose(found, logmel(audio), atol=0.01)


def test_command_line(tmp_path, capsys, monkeypatch):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    monkeypatch.setattr(check, "EXCERPT_SAMPLES", ())  # fewer programs to compile
    run, out = tagging.save(tmp_path / "run"), tmp_path / "out.safetensors"
    arguments = ["--format=safetensors", f"--out={out}", "--licence=mine"]
    export.main(export.parse(["export", run, *arguments]))
    assert "differs from the Flax model by at most" in capsys.readouterr().out
    assert load_model.load_model(out).info.origin["licence"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=torch", "--out=x.pt", "--quantize"], "--quantize is for --format=tflite, not"),
        (["--format=torch", "--out=x.bin"], r"ends in \.pt or \.pth"),
        (["--format=onnx", "--out=."], "is a folder"),
        (["--format=onnx", "--out=/dev/null"], "/dev/null is a folder or a device"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        export.main(export.parse(["export", "run", *arguments]))


def test_clips_of_the_run_are_found(tmp_path):
    settings = config.base()
    settings.data.corpus, settings.data.data_dir = "tfds", str(tmp_path)
    of_earlier_version = files.as_json(settings.to_dict())
    of_earlier_version["data"]["reader"] = "random"
    files.write_json(tmp_path / "run" / "config.json", of_earlier_version)
    index = synthetic_data.make_index([2, 1], [4000, 3000, 5000], split="eval")
    audio = synthetic_data.make_audio(index)
    synthetic_data.write_prepared(tmp_path, index, audio, "eval")
    found = check.read_evaluation_clips(tmp_path / "run")
    assert [len(x) for x in found] == [4000, 3000, 5000]
    np.testing.assert_array_equal(found[1] * 32768, audio[1])
    assert check.read_evaluation_clips(tmp_path) == []
