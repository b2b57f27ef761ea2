"""EfficientAT's mn: against published outputs, and what its rows and files may be."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import soxr
from flax import traverse_util
from safetensors.numpy import save_file
from shared_tables import TEACHERS, needs_teachers
from small_mn import SHALLOW, random_state
from synthetic_data import make_quiet_batch

from psl_jax.config import Settings
from psl_jax.experiments.training_steps import start_variables
from psl_jax.networks import mn as module
from psl_jax.networks import mn_frontend as frontend
from psl_jax.networks.architecture import Variables, num_parameters
from psl_jax.networks.folding import JaxOperations, frame_probabilities
from psl_jax.networks.layers import Context
from psl_jax.networks.mn import MN
from psl_jax.networks.mn_frontend import MnFrontEnd
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.scoring.scorer import Scorer
from psl_jax.teachers.open_teacher import load_teacher, parse_name
from psl_jax.training.step import Recipe, init_state, step_function
from psl_jax.weights import pytorch_file
from psl_jax.weights.load_model import load_model


@pytest.fixture
def shallow_mn(monkeypatch):
    monkeypatch.setattr(module, "TABLE", SHALLOW)


@needs_teachers
def test_published_weights_give_the_published_probabilities():
    """Also of rows that end in padding, as if they were alone; features too."""
    pytest.importorskip("torch")
    model = load_model(TEACHERS / "mn04_as_mAP_432.pt")
    assert (model.info.network, model.info.width) == ("mn", 0.4)
    # The published count, less the BatchNorms' scales, which are folded into kernels.
    folded = model.folded
    assert sum(x.size for x in jax.tree.leaves(folded)) == 978_679

    @jax.jit
    def run(folded, audio, num_samples):
        features = frontend.log_mel(audio, num_samples)
        frames = frontend.num_frames(num_samples)
        return features, frame_probabilities(folded, features, JaxOperations(), frames)[:, 0]

    with np.load(TEACHERS / "mn04_reference.npz") as reference:
        rows = [reference[f"wave{number}"] for number in (1, 3, 4)]
        lengths = np.array([len(row) for row in rows])
        assert lengths.tolist() == [64_000, 96_017, 64_000]
        audio = np.stack([np.pad(row, (0, lengths.max() - len(row))) for row in rows])
        features, probabilities = run(folded, audio, lengths)
        for row, number in enumerate((1, 3, 4)):
            mel = reference[f"logmel{number}"]
            every_tenth = np.asarray(features[row]).T[:, ::10][:, : mel.shape[1]]
            np.testing.assert_allclose(every_tenth, mel, 0, 1e-3)
            np.testing.assert_allclose(probabilities[row], reference[f"prob{number}"], 0, 1e-4)
        whole = np.asarray(jax.jit(frontend.log_mel)(reference["wave0"][None]))[0].T
        np.testing.assert_allclose(whole[:, ::10], reference["logmel0"], 0, 1e-3)


def test_rate_is_doubled_as_a_resampler_does():
    """Up to 7 kHz, away from the ends, where a resampler hears silence too."""
    rng = np.random.default_rng(0)
    audio = np.zeros(8000, np.float32)
    spectrum = np.fft.rfft(rng.normal(size=7000))
    spectrum[int(7000 * 7 / 16) :] = 0
    audio[500:7500] = 0.1 * np.fft.irfft(spectrum) * np.hanning(7000)
    found = np.asarray(jax.jit(frontend.doubled)(audio[None]))[0]
    expected = soxr.resample(audio, 16_000, 32_000, quality="VHQ")
    assert found.shape == (16_000,)
    np.testing.assert_array_equal(found[::2], audio)
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=2e-4)


def test_products_transform_on_tpus_as_the_fft_does():
    audio = make_quiet_batch(4000, 0)["audio"] * 30
    program = jax.jit(frontend.log_mel, static_argnums=(1, 2))
    by_fft, by_products = (np.asarray(program(audio, None, p)) for p in ("cpu", "tpu"))
    assert by_fft.shape == (2, 13, 128)
    np.testing.assert_allclose(by_products, by_fft, rtol=0, atol=1e-3)


def test_a_short_row_among_full_ones_scores_as_it_does_alone():
    variables = pytorch_file.convert_from_state(random_state(7, 0.1), "random weights").variables
    scorer = Scorer(MN.fold(variables, "sigmoid"), MnFrontEnd(), num_devices=1)
    batch = make_quiet_batch(16_000, 7, num_rows=3)
    batch["num_samples"][1] = 9_000
    alone = {k: v[1:2].copy() for k, v in batch.items()} | {"audio": batch["audio"][1:2, :9_000]}
    ((_, found),) = scorer([batch])
    ((_, expected),) = scorer([alone])
    np.testing.assert_allclose(found[1], expected[0], rtol=0, atol=2e-6)
    full = make_quiet_batch(16_000, 7, num_rows=3)
    ((_, without),) = scorer([full])
    np.testing.assert_allclose(found[[0, 2]], without[[0, 2]], rtol=0, atol=2e-6)
    assert np.abs(found[1] - without[1]).max() > 1e-5  # it does hear less


@dataclasses.dataclass(frozen=True)
class Spectrograms(MnFrontEnd):
    """Takes spectrograms, flat, for audio: what is compared begins behind the front end."""

    def __call__(self, audio, num_samples=None, axis_name=None, platform=None):
        return audio.reshape(len(audio), -1, 32)

    def num_frames(self, num_samples):
        return num_samples // 32


@pytest.mark.parametrize(("channels_first", "backbone_factor"), [(True, 1.0), (False, 0.5)])
def test_a_step_is_that_of_pytorch(channels_first, backbone_factor, monkeypatch, shallow_mn):
    """In float64: loss, gradients (by Adam's moment), parameters and statistics."""
    torch = pytest.importorskip("torch")
    from psl_jax.exporting import audio_tagger

    monkeypatch.setattr(audio_tagger, "_BLOCKS", SHALLOW)
    torch.manual_seed(0)
    theirs = audio_tagger.AudioTagger(5, 0.4, network="mn").double()
    theirs.classifier[4].p = 0.0
    for parameter in theirs.classifier[5].parameters():
        torch.nn.init.normal_(parameter)  # so that gradients do not vanish
    head = theirs.classifier[5]
    backbone = [*theirs.features.parameters(), *theirs.classifier[2].parameters()]
    slower = {"params": backbone, "lr": backbone_factor * 1e-3}
    adam = torch.optim.Adam([slower, {"params": head.parameters()}], 1e-3)
    rng = np.random.default_rng(0)
    logmel, labels = rng.normal(size=(8, 40, 32)), rng.random((8, 5))
    before = {name: tensor.numpy().copy() for name, tensor in theirs.state_dict().items()}
    embedded = theirs.features(torch.tensor(logmel).transpose(1, 2)[:, None]).mean((2, 3))
    logits = theirs.classifier(embedded)
    loss = torch.nn.BCEWithLogitsLoss()(logits, torch.tensor(labels))
    loss.backward()
    adam.step()
    with jax.enable_x64(True):
        ours = one_step(before, logmel, labels, channels_first, backbone_factor)
    assert ours["loss"] == pytest.approx(loss.item(), rel=1e-12)
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    assert_close(ours["gradients"], gradients, 1e-9)
    after = {n: t.numpy() for n, t in theirs.state_dict().items() if "num_batches" not in n}
    assert_close(ours["after"], {n: t for n, t in after.items() if "running" in n}, 1e-9)
    # A gradient that is 0 but for rounding, Adam makes a part of a step of 1e-3.
    assert_close(ours["after"], {n: t for n, t in after.items() if "running" not in n}, 1e-7, 1.0)
    assert len(gradients) > 40 and ours["after"].keys() == after.keys()


def assert_close(ours, theirs, atol, least=1e-3):
    """Relative to each tensor's largest value, or `least` where that is smaller."""
    for name, values in theirs.items():
        scale = max(np.abs(values).max(), least)
        np.testing.assert_allclose(ours[name], values, 0, atol * scale, err_msg=name)


def test_a_step_in_bfloat16_is_about_that_in_float64(shallow_mn):
    rng, state = np.random.default_rng(0), random_state(5, 0.4)
    logmel, labels = rng.normal(size=(8, 40, 32)), rng.random((8, 5))
    with jax.enable_x64(True):
        exact = one_step(state, logmel, labels, False, 0.5)
    found = one_step(state, logmel.astype(np.float32), labels, False, 0.5, "bfloat16")
    assert found["loss"] == pytest.approx(exact["loss"], rel=2e-2)
    assert found["loss"] != exact["loss"]
    for name in ("classifier.5.weight", "features.3.block.2.conc_se_layers.0.fc2.weight"):
        ours, theirs = (one["gradients"][name].ravel() for one in (found, exact))
        assert ours @ theirs > 0.9 * np.linalg.norm(ours) * np.linalg.norm(theirs)


@functools.cache
def step_program(channels_first, backbone_factor, dtype):
    how = {"channels_first": channels_first, "backbone_factor": backbone_factor}
    recipe = Recipe(Spectrograms(), dtype=dtype, **how)
    return parallel.data_parallel(
        step_function(MN.create(5, 0.4, 0.0)[0], recipe, "cpu"),
        parallel.data_mesh(1),
        (parallel.REPLICATED, parallel.SPLIT, parallel.REPLICATED),
        parallel.REPLICATED,
    )


def one_step(state, logmel, labels, channels_first, backbone_factor, dtype="float64"):
    """Ours, from a state dict: the loss, gradients and what follows by published names."""
    created = MN.create(5, 0.4, 0.0)[1]
    arrays = {
        (entry.tree, *entry.path): pytorch_file._LAYOUTS[entry.layout].ours(state[entry.name])
        for entry in MN.entries(created.params)
    }
    trees = Variables(**traverse_util.unflatten_dict(arrays))
    mesh = parallel.data_mesh(1)
    step = step_program(channels_first, backbone_factor, dtype)
    batch = {"audio": logmel.reshape(len(logmel), -1), "labels": labels}
    batch["num_samples"] = np.full(len(logmel), batch["audio"].shape[1])
    start = parallel.replicate(init_state(trees), mesh)
    after, values = step(start, parallel.put_batch(batch, mesh), 1e-3)
    after = parallel.to_host(after)
    moments = jax.tree.map(lambda m: m / 0.1, after.optimizer.mu)
    gradients = Variables(moments, after.variables.stats)
    return {
        "loss": float(values["loss"]),
        "gradients": pytorch_file.convert_to_state(gradients, MN, has_extras=False),
        "after": pytorch_file.convert_to_state(after.variables, MN, has_extras=False),
    }


def test_training_hears_no_padding_and_the_folded_network_is_the_module(shallow_mn):
    network, _ = MN.create(5, 0.4)
    variables = pytorch_file.convert_from_state(random_state(5, 0.4), "random weights").variables
    logmel = np.random.default_rng(1).normal(size=(3, 40, 64)).astype(np.float32)

    @jax.jit
    def run(valid_frames):
        return network.apply(variables, logmel, Context(), None, valid_frames)[0]

    expected = run(None)
    folded = MN.fold(variables, "sigmoid")
    found = jax.jit(lambda x: frame_probabilities(folded, x, JaxOperations()))(logmel)
    assert found.shape == (3, 1, 5) and found.std(axis=(0, 1)).min() > 1e-4
    np.testing.assert_allclose(found, expected, 0, 2e-6)
    valid = np.array([40, 20, 40])
    shorter = np.asarray(run(valid))
    np.testing.assert_allclose(shorter[[0, 2]], expected[np.array([0, 2])], 0, 2e-6)
    assert np.abs(shorter[1] - expected[1]).max() > 1e-5


def test_a_description_names_its_network():
    """In a format that earlier versions refuse; descriptions of MobileNetV2 are as they were."""
    info = ModelInfo(("Dog", "Cat"), 0.4, 2.0, network="mn")
    described = info.as_json()
    assert (described["format_version"], described["network"]) == (3, "mn")
    assert ModelInfo.from_json(described, "model.json") == info
    for change, words in (
        ({"network": "resnet", "format_version": 9}, "version 9, .* install a newer one"),
        ({"network": "resnet"}, r"network is 'resnet', expected one of mobilenet_v2, mn"),
        ({"sample_rate": 8_000}, r"sample_rate is 8000, expected one of 16000, 32000"),
    ):
        with pytest.raises(UserError, match=rf"model\.json .*{words}"):
            ModelInfo.from_json(described | change, "model.json")
    older = ModelInfo(("Dog", "Cat"), 0.4, 2.0).as_json()
    assert older["format_version"] == 1 and "network" not in older


def test_a_classifier_begins_with_the_rows_of_classes_of_equal_names():
    info = ModelInfo(("Dog", "Cat"), 0.1, 2.0, network="mn")
    start = Model(*info.create(), info)
    fresh = MN.create(2, 0.1, seed=1)[1]
    by_names = Settings(init_class_map="names")
    found = start_variables(fresh, start, ("Cat", "bell"), by_names)
    kernels = (one.params["classifier"]["kernel"] for one in (found, start.variables, fresh))
    kernel, of_start, of_fresh = map(np.asarray, kernels)
    np.testing.assert_array_equal(kernel, np.stack([of_start[:, 1], of_fresh[:, 1]], axis=1))
    assert found.params["hidden"] is start.variables.params["hidden"]
    anew = start_variables(fresh, start, ("Cat", "bell"), Settings())
    np.testing.assert_array_equal(anew.params["classifier"]["kernel"], of_fresh)


def test_parameters_of_mn10_are_as_many_as_published_with_batch_norms():
    assert round(num_parameters(MN.create(527, 1.0)[1]) / 1e6, 2) == 4.88


def test_files_that_lack_weights_are_refused(tmp_path, shallow_mn):
    state = random_state(5, 0.1) | {"extra": np.zeros(3, np.float32)}
    del state["classifier.2.bias"]
    save_file(state, tmp_path / "lacks.safetensors")
    message = r"(?s)EfficientAT's mn.*missing: classifier\.2\.bias\n.*extra"
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "lacks.safetensors")


def test_classes_of_other_numbers_are_named_beside_the_file(tmp_path, shallow_mn):
    path = tmp_path / "small.safetensors"
    save_file(random_state(2, 0.1), path)
    name = parse_name(f"mn:{path}")
    with pytest.raises(UserError, match=r"has 2 classes and does not name them: .*classes\.csv"):
        load_teacher(name)
    (tmp_path / "small.safetensors.classes.csv").write_text("label\nDog\nCat\n")
    found = load_teacher(name)
    assert found.classes == ("Dog", "Cat") and found.rate == 32_000
    assert found.entry["width"] == 0.1
    save_file(random_state(2, 0.1, seed=1), path)
    assert load_teacher(name).digest != found.digest
