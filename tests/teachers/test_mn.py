"""EfficientAT's mn: against published outputs, and what its rows and files may be."""

import pickle

import jax
import numpy as np
import pytest
import soxr
from safetensors.numpy import save_file
from shared_tables import TEACHERS, needs_teachers

from psl_jax.runtime.errors import UserError
from psl_jax.teachers import mn, mn_frontend, mn_network, mn_weights
from psl_jax.teachers.teacher import ScoringOptions, make_quiet_noise


@needs_teachers
def test_published_weights_give_the_published_probabilities():
    """Also of rows that end in padding, as if they were alone; features too."""
    pytest.importorskip("torch")
    network, arrays, width = mn_weights.read(TEACHERS / "mn04_as_mAP_432.pt")
    assert width == 0.4 and sum(x.size for x in jax.tree.leaves(arrays)) == 978_679

    @jax.jit
    def run(arrays, audio, num_samples):
        features = mn_frontend.log_mel(audio, num_samples)
        logits = network.logits(arrays, features, mn_frontend.num_frames(num_samples))
        return features, jax.nn.sigmoid(logits)

    with np.load(TEACHERS / "mn04_reference.npz") as reference:
        rows = [reference[f"wave{number}"] for number in (1, 3, 4)]
        lengths = np.array([len(row) for row in rows])
        assert lengths.tolist() == [64_000, 96_017, 64_000]
        audio = np.stack([np.pad(row, (0, lengths.max() - len(row))) for row in rows])
        features, probabilities = run(arrays, audio, lengths)
        for row, number in enumerate((1, 3, 4)):
            mel = reference[f"logmel{number}"]
            every_tenth = np.asarray(features[row]).T[:, ::10][:, : mel.shape[1]]
            np.testing.assert_allclose(every_tenth, mel, 0, 1e-3)
            np.testing.assert_allclose(probabilities[row], reference[f"prob{number}"], 0, 1e-4)
        whole = np.asarray(mn_frontend.log_mel(reference["wave0"][None]))[0].T
        np.testing.assert_allclose(whole[:, ::10], reference["logmel0"], 0, 1e-3)


def test_rate_is_doubled_as_a_resampler_does():
    """Up to 7 kHz, away from the ends, where a resampler hears silence too."""
    rng = np.random.default_rng(0)
    audio = np.zeros(8000, np.float32)
    spectrum = np.fft.rfft(rng.normal(size=7000))
    spectrum[int(7000 * 7 / 16) :] = 0
    audio[500:7500] = 0.1 * np.fft.irfft(spectrum) * np.hanning(7000)
    found = np.asarray(mn_frontend.doubled(audio[None]))[0]
    expected = soxr.resample(audio, 16_000, 32_000, quality="VHQ")
    assert found.shape == (16_000,)
    np.testing.assert_array_equal(found[::2], audio)
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=2e-4)


def test_products_transform_as_the_fft_does():
    """What TPUs do instead."""
    audio = make_quiet_noise(4000, 0)["audio"] * 30
    by_fft, by_products = (np.asarray(mn_frontend.log_mel(audio, None, p)) for p in ("cpu", "tpu"))
    assert by_fft.shape == (2, 13, 128)
    np.testing.assert_allclose(by_products, by_fft, rtol=0, atol=1e-3)


def teacher(width=0.1, classes=527, seed=0):
    network, arrays, found = mn_weights.from_state(
        mn_weights.random_state(classes, width, seed), "random weights"
    )
    names = tuple(f"class {number}" for number in range(classes))
    return mn.MnTeacher("random", names, network, arrays, found, "digest")


def test_padding_has_no_influence():
    """A short row among full ones scores as it does alone, whatever follows its end."""
    one = teacher(classes=7)
    batch = make_quiet_noise(16_000, 7, num_rows=3)
    batch["num_samples"][1] = 9_000
    alone = {k: v[1:2].copy() for k, v in batch.items()} | {"audio": batch["audio"][1:2, :9_000]}
    ((_, found),) = one.make_scorer(ScoringOptions(num_devices=1))([batch])
    ((_, expected),) = one.make_scorer(ScoringOptions(num_devices=1))([alone])
    np.testing.assert_allclose(found[1], expected[0], rtol=0, atol=2e-6)
    full = make_quiet_noise(16_000, 7, num_rows=3)
    ((_, without),) = one.make_scorer(ScoringOptions(num_devices=1))([full])
    np.testing.assert_allclose(found[[0, 2]], without[[0, 2]], rtol=0, atol=2e-6)
    assert np.abs(found[1] - without[1]).max() > 1e-4  # it does hear less


@pytest.mark.parametrize("width", [0.4, 0.5, 1.0, 2.0])
def test_width_is_read_from_the_shapes(width):
    names = {n: s for one in mn_weights.layers(10, width) for n, s in one.shapes().items()}
    assert mn_weights._width(names, 10) == width
    # Published: mn10 has 4.88 M parameters, BatchNorms counted.
    if width == 1.0:
        names = {n: s for one in mn_weights.layers(527, 1.0) for n, s in one.shapes().items()}
        count = sum(int(np.prod(s)) for n, s in names.items() if "running" not in n)
        assert round(count / 1e6, 2) == 4.88


def test_files_that_are_no_weights_are_refused(tmp_path):
    state = mn_weights.random_state(5, 0.1)
    del state["classifier.2.bias"]
    state["extra"] = np.zeros(3, np.float32)
    save_file(state, tmp_path / "lacks.safetensors")
    message = r"no weights of EfficientAT's mn: it lacks classifier\.2\.bias; it has besides extra"
    with pytest.raises(UserError, match=message):
        mn_weights.read(tmp_path / "lacks.safetensors")
    state = mn_weights.random_state(5, 0.1)
    state["features.3.block.0.0.weight"][0] = np.nan
    with pytest.raises(UserError, match=r"NaN or infinite weights in features\.3"):
        mn_weights.from_state(state, "nan.pt")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(UserError, match="cannot read"):
        mn_weights.read(tmp_path / "text.safetensors")
    with pytest.raises(UserError, match="there is no such file"):
        mn_weights.read(tmp_path / "nowhere.pt")
    (tmp_path / "weights.bin").touch()
    with pytest.raises(UserError, match="expected EfficientAT's weights as"):
        mn_weights.read(tmp_path / "weights.bin")


class Opener:
    """What a malicious pickle would be."""

    def __reduce__(self):
        return open, ("/dev/null",)


def test_a_pickle_inside_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"features.0.0.weight": Opener()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="refused because loading it could run code"):
        mn.load(str(tmp_path / "evil.pt"))
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Opener(), protocol=2))
    with pytest.raises(UserError, match="refused because loading it could run code"):
        mn.load(str(tmp_path / "old.pt"))


def test_classes_of_other_numbers_are_named_beside_the_file(tmp_path):
    path = tmp_path / "small.safetensors"
    save_file(mn_weights.random_state(2, 0.1), path)
    with pytest.raises(UserError, match=r"has 2 classes and does not name them: .*classes\.csv"):
        mn.load(str(path))
    (tmp_path / "small.safetensors.classes.csv").write_text("label\nDog\nCat\n")
    found = mn.load(str(path))
    assert found.classes == ("Dog", "Cat") and found.width == 0.1 and found.rate == 32_000
    save_file(mn_weights.random_state(2, 0.1, seed=1), path)
    assert mn.load(str(path)).digest != found.digest


def test_network_is_the_papers_table():
    strides = [row.stride for row in mn_network.TABLE]
    assert len(strides) == 15 and 2 * np.prod(strides) == 32
