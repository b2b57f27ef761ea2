"""Exported models: the Flax model's probabilities in their own runtimes, and nothing else kept."""

import dataclasses
import json
import pathlib
import sys
import zipfile

import jax
import numpy as np
import pytest
import small_mn
import small_network
import tagging
from orbax.checkpoint import v1 as ocp
from shared_tables import ESC50
from small_network import PAPER, SHALLOW

from psl_jax.audio import audio_input
from psl_jax.commands import export
from psl_jax.exporting import check
from psl_jax.exporting.formats import FORMATS, Format, describe
from psl_jax.networks import mn as mn_module
from psl_jax.networks.architecture import Variables
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.runtime.errors import UserError
from psl_jax.weights import load_model, pytorch_file

pytestmark = pytest.mark.usefixtures("paper_network")
NEEDS = {"onnx": "onnxruntime", "tflite": "ai_edge_litert"}
NEEDS |= {"torch": "torch", "safetensors": "safetensors"}
SUFFIXES = {"torch": ".pt", "orbax": ""}
LICENCE = "CC BY 4.0"
CONFIG_DIGEST = "0123456789abcdef"


def require(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")


@pytest.fixture(scope="module")
def model_of():
    """The model that is exported in a format.

    Of few blocks for StableHLO: to compile its program for six shapes takes long.
    """

    def get(name: str) -> Model:
        with small_network.blocks(SHALLOW if name == "stablehlo" else PAPER):
            small = tagging.model()
        origin = dict(small.info.origin) | {"config_digest": CONFIG_DIGEST}
        return dataclasses.replace(small, info=dataclasses.replace(small.info, origin=origin))

    return get


@pytest.fixture(scope="module")
def model(model_of) -> Model:
    return model_of("onnx")


def write(model: Model, name: str, path: pathlib.Path, signals, **options):
    """`export.export`; a shallow model is folded as such."""
    is_shallow = len(model.variables.params["blocks"]) < 17
    with small_network.blocks(SHALLOW if is_shallow else PAPER):
        return export.export(model, name, path, signals=signals, licence=LICENCE, **options)


@pytest.fixture(scope="module")
def signals() -> list[np.ndarray]:
    recordings = sorted(ESC50.glob("*.ogg"))[:3]
    real = [np.concatenate(list(audio_input.open_blocks(path)())) for path in recordings]
    return [check.make_synthetic_signal(), *(samples / np.float32(32768) for samples in real)]


@pytest.fixture(scope="module")
def exported(model_of, signals, tmp_path_factory):
    """Writes each format once: (path, how it differs from the Flax model)."""
    folder, done = tmp_path_factory.mktemp("exports"), {}

    def get(name: str, quantize: bool = False) -> tuple[pathlib.Path, object]:
        if (name, quantize) not in done:
            require(name)
            path = folder / f"{len(done)}_small{SUFFIXES.get(name, '.' + name)}"
            found = write(model_of(name), name, path, signals, quantize=quantize)
            done[name, quantize] = path, found
        return done[name, quantize]

    return get


@pytest.mark.parametrize(
    ("name", "rate"),
    [*((name, 16_000) for name in FORMATS), ("onnx", 32_000), ("torch", 32_000)],
)
def test_mn_in_each_format(name, rate, signals, monkeypatch, tmp_path):
    require(name)
    monkeypatch.setattr(mn_module, "TABLE", small_mn.SHALLOW)
    monkeypatch.setattr(check, "EXCERPT_SAMPLES", (4_801,))  # fewer programs to compile
    monkeypatch.setattr(check, "BATCH_SIZES", (3,))
    state = small_mn.random_state(6, 0.4)
    variables = pytorch_file.convert_from_state(state, "random weights").variables
    info = ModelInfo(tagging.LABELS, 0.4, 0.3, network="mn", sample_rate=rate)
    model = Model(info.create()[0], variables, info)
    path = tmp_path / f"mn{SUFFIXES.get(name, '.' + name)}"
    if name == "torch":
        from psl_jax.exporting import audio_tagger

        monkeypatch.setattr(audio_tagger, "_BLOCKS", small_mn.SHALLOW)
    found = write(model, name, path, signals)
    assert found.worst < 2e-5
    clip, frames = FORMATS[name].load(path)(signals[0][:14_400].reshape(3, 4_800))
    assert frames.shape == (3, 1, 6) and clip.std(axis=0).min() > 1e-4
    described = read_info(name, path)
    assert (described["network"], described["mel_bands"]) == ("mn", 128)
    assert described["sample_rate"] == rate


def test_weights_of_a_run_are_read_by_orbax_alone(tmp_path):
    model, run = tagging.model(), pathlib.Path(tagging.save(tmp_path / "run"))
    stored = jax.tree_util.tree_leaves_with_path(ocp.load(run / "averaged" / "weights"))
    arrays = {".".join(key.key for key in keys): np.asarray(x) for keys, x in stored}
    for keys, array in jax.tree_util.tree_leaves_with_path(model.variables._asdict()):
        name = ".".join(str(key.key) for key in keys)
        np.testing.assert_array_equal(arrays.pop(name), array, err_msg=name)
    assert not arrays


def test_quantized_weights_are_small_and_leave_the_front_end_alone(exported, signals, model):
    """Filters in 8 bits would be off by 90 dB in quiet bands, weights are by little."""
    plain, _ = exported("tflite")
    path, found = exported("tflite", quantize=True)
    assert path.stat().st_size < 0.5 * plain.stat().st_size
    assert 0 < found.mean <= export.QUANTIZED_TOLERANCE
    quiet = [0.001 * signal for signal in signals]
    runner = FORMATS["tflite"].load(path)
    assert check.compare_with_flax(runner, model, signals=quiet).mean <= export.QUANTIZED_TOLERANCE


def read_info(name: str, path: pathlib.Path) -> dict:
    """What travels with a model, read without this package."""
    if name == "onnx":
        import onnx

        props = onnx.load(path).metadata_props
        return {prop.key: json.loads(prop.value) for prop in props}
    if name == "safetensors":
        size = int.from_bytes(path.read_bytes()[:8], "little")
        metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
        assert metadata.pop("format") == "pt"
        return {key: json.loads(value) for key, value in metadata.items()}
    if name == "tflite":
        with zipfile.ZipFile(path) as archive:
            assert archive.read("labels.txt").decode().splitlines() == list(tagging.LABELS)
            return json.loads(archive.read("psl_jax.json"))
    beside = {"orbax": path / "model.json"}.get(name, pathlib.Path(f"{path}.json"))
    return json.loads(beside.read_text())


@pytest.mark.parametrize("name", FORMATS)
def test_what_travels_with_a_model(name, model_of, exported):
    path, _ = exported(name)
    info = read_info(name, path)
    expected = {"classes": list(tagging.LABELS), "sample_rate": 16_000, "segment_seconds": 2.0}
    expected |= {"config_digest": CONFIG_DIGEST, "model_digest": model_of(name).digest}
    expected |= {"licence": LICENCE, "input": "waveform"}
    assert {key: info[key] for key in expected} == expected


def test_a_program_for_tpus_has_no_float64(exported):
    path, _ = exported("stablehlo")
    text = jax.export.deserialize(bytearray(path.read_bytes())).mlir_module()
    assert "complex<f32>" in text and "complex<f64>" not in text


@pytest.mark.parametrize("name", ["onnx", "safetensors", "orbax"])
def test_an_export_that_disagrees_is_removed(name, model_of, signals, monkeypatch, tmp_path):
    require(name)
    model = model_of(name)
    genuine = FORMATS[name]

    def write_tampered(path, model, info):
        params = jax.tree.map(np.copy, model.variables.params)
        params["blocks"][3]["project"]["kernel"] *= 1.02
        variables = Variables(params, model.variables.stats)
        genuine.write(path, dataclasses.replace(model, variables=variables), info)

    monkeypatch.setitem(FORMATS, name, Format(write_tampered, genuine.load))
    out = tmp_path / f"small{SUFFIXES.get(name, '.' + name)}"
    with pytest.raises(UserError, match=r"differs from the Flax model by .* at most 0\.0001"):
        write(model, name, out, signals)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda clip, frames: (clip, frames[:, :-1]), r"frame probabilities of shape"),
        (lambda clip, frames: (clip * np.nan, frames), r"clip probabilities of shape .* finite"),
    ],
    ids=["frames", "nan"],
)
def test_wrong_shapes_and_nan_are_refused(model, signals, spoil, message):
    genuine = check.make_flax_runner(model)
    with pytest.raises(UserError, match=message):
        check.compare_with_flax(lambda audio: spoil(*genuine(audio)), model, signals=signals)


@pytest.mark.parametrize("name", ["orbax", "safetensors", "torch"])
def test_exported_weights_are_models(name, model, exported):
    loaded = load_model.load_model(exported(name)[0])
    assert loaded.digest == model.digest
    assert (loaded.info.name, loaded.info.segment_seconds) == ("small", 2.0)
    assert loaded.info.logmel == LogMel(120.0, "clip")


def test_nothing_is_said_of_a_licence_that_nobody_gave(model):
    described = [describe(model, given) for given in (None, "mine")]
    assert "licence" not in described[0] and described[1]["licence"] == "mine"


def test_a_missing_runtime_is_named(model, signals, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"--format=onnx needs onnx.* '\.\[export\]'"):
        write(model, "onnx", tmp_path / "x.onnx", signals)
    assert list(tmp_path.iterdir()) == []


def test_a_range_over_the_batch_becomes_one_over_each_clip():
    exported = LogMel(60.0, "batch").exported()
    assert (exported.top_db, exported.top_db_over) == (60.0, "clip")
