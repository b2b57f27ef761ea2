"""Published PyTorch checkpoints: same outputs, there and back, and wrong files refused."""

import copy
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_reference

import psl_jax
from psl_jax.commands import export
from psl_jax.exporting import check
from psl_jax.networks.architecture import num_parameters
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.layers import Context
from psl_jax.networks.mn import MN
from psl_jax.networks.mobilenetv2 import MOBILENET_V2, create
from psl_jax.runtime.errors import UserError
from psl_jax.weights import load_model, pytorch_file

pytestmark = pytest.mark.usefixtures("paper_network")

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[torch]'")


@pytest.fixture(scope="module")
def reference():
    """The network at full size, random, with the statistics of sounds: outputs differ with them."""
    torch.manual_seed(0)
    model = torch_reference.randomize_statistics(torch_reference.MobileNetV2())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics become those of the next batch
    with torch.no_grad():
        model(torch.from_numpy(_audio()))
        model.classifier[1].weight.mul_(10)
        model.classifier[1].bias.normal_(-1.0, 1.0)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "mobilenetv2.pt"
    torch.save(reference.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def small_state():
    model = torch_reference.MobileNetV2(num_classes=3, width=0.25)
    return torch_reference.randomize_statistics(model).state_dict()


@pytest.fixture(scope="module")
def imported(checkpoint):
    return load_model.load_model(checkpoint)


def _audio():
    """float32 [2, samples]: noise that fades in and out, and a tone that glides over it."""
    samples = 54_321  # 340 frames: strides begin at even and at odd numbers of them
    rng = np.random.default_rng(samples)
    time = np.arange(samples) / 16000
    noise = rng.normal(size=samples) * 0.1 * np.sin(np.pi * time / time[-1]) ** 4
    glide = 0.3 * np.sin(2 * np.pi * (200 + 500 * time / time[-1]) * time)
    return np.stack([noise, noise + glide]).astype(np.float32)


def test_the_imported_network_gives_the_same_probabilities(reference, imported):
    """In float64: 54 layers make 1e-4 of the rounding of float32."""
    wide, audio = copy.deepcopy(reference).double(), _audio()
    with torch.inference_mode():
        theirs = wide.log_mel(torch.from_numpy(audio).double())
        expected = wide.frame_probabilities(theirs).numpy()
    log_mel = theirs[:, 0].numpy().transpose(0, 2, 1)
    np.testing.assert_allclose(LogMel()(audio), log_mel, rtol=0, atol=0.1)  # of a rounded window
    assert expected.std(axis=1).mean() > 0.1  # over time
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), imported.variables)
        context = Context(dtype=jnp.float64)
        apply = jax.jit(lambda log_mel: imported.network.apply(variables, log_mel, context)[0])
        frames = apply(log_mel)
    np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-9)


def test_an_imported_checkpoint_is_a_model_with_audioset_classes(imported):
    assert num_parameters(imported.variables) == 2_898_383
    assert imported.info.width == 1
    assert len(imported.classes) == 527
    assert imported.classes[0] == "Speech"
    assert imported.classes[526] == "Field recording"


@pytest.mark.parametrize("wrapped", [False, True])
def test_there_and_back_is_bit_equal(small_state, tmp_path, wrapped):
    path, back = tmp_path / "in.pt", tmp_path / "back.pt"
    torch.save({"model": small_state} if wrapped else small_state, path)
    model = load_model.load_model(path, ("bell", "hum", "siren"))
    pytorch_file.write(back, pytorch_file.convert_to_state(model.variables))
    found = torch.load(back, weights_only=True)
    assert set(found) == set(small_state)
    for name, tensor in small_state.items():
        assert found[name].dtype == tensor.dtype, name
        if not name.startswith(pytorch_file.FRONT_END):
            assert torch.equal(found[name], tensor), name
    assert model.classes == ("bell", "hum", "siren")


def test_a_model_trained_here_loads_strictly(tmp_path):
    """The front end's tensors, which the network does not use, are the published code's."""
    _, shapes = create(3, 0.5)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    pytorch_file.write(tmp_path / "out.pt", pytorch_file.convert_to_state(variables))
    model = torch_reference.MobileNetV2(num_classes=3, width=0.5)
    front_end = {name: t.clone() for name, t in model.front_end.state_dict().items()}
    model.load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True), strict=True)
    for name, tensor in model.front_end.state_dict().items():
        torch.testing.assert_close(tensor, front_end[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "width"),
    [
        *((MOBILENET_V2, width) for width in (0.25, 0.35, 0.5, 0.75, 1.0, 1.4, 2.0)),
        *((MN, width) for width in (0.5, 1.0, 2.0)),
    ],
)
def test_width_is_inferred(network, width):
    _, variables = network.create(2, width)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), variables)
    state = pytorch_file.convert_to_state(zeros, network)
    assert pytorch_file.convert_from_state(state, "zeros").width == width


def test_misfits_are_named(small_state, tmp_path):
    state = dict(small_state)
    del state["features.3.conv.1.0.weight"]
    state["fc.weight"] = torch.zeros(2, 2)
    state["features.18.0.weight"] = torch.zeros(7, 80, 1, 1)
    torch.save(state, tmp_path / "wrong.pt")
    with pytest.raises(UserError) as caught:
        pytorch_file.load(tmp_path / "wrong.pt")
    message = str(caught.value)
    assert "missing: features.3.conv.1.0.weight" in message
    assert "unexpected: fc.weight" in message
    assert "misshapen: features.18.0.weight [7, 80, 1, 1], expected [1280, 80, 1, 1]" in message


def test_another_network_is_refused_by_a_short_list(tmp_path):
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "linear.pt")
    message = r"missing: features\.0\.0\.weight.* and \d+ more"
    with pytest.raises(UserError, match=message) as caught:
        pytorch_file.load(tmp_path / "linear.pt")
    assert "unexpected: weight, bias" in str(caught.value)
    assert len(str(caught.value)) < 1000


class _Surprise:
    def __reduce__(self):
        return print, ("this code must not run",)


def _save_code(path):
    path.write_bytes(pickle.dumps({"model": _Surprise()}, protocol=2))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "cannot read"),
        (_save_code, "expected a file of plain tensors"),
        (lambda path: torch.save([1, 2], path), "holds a list; expected a state dict"),
        (lambda path: torch.save({"epoch": 3}, path), "holds a dict of 'epoch'; expected"),
    ],
    ids=["missing", "code", "list", "numbers"],
)
def test_other_files_are_refused(tmp_path, capfd, write, message):
    write(tmp_path / "in.pt")
    with pytest.raises(UserError, match=message):
        pytorch_file.read(tmp_path / "in.pt")
    assert "must not run" not in capfd.readouterr().out


@pytest.mark.parametrize("values", [np.zeros(3, np.int32), np.float32([0, np.nan, 0])])
def test_weights_that_are_no_finite_numbers_are_refused(small_state, values):
    state = {name: tensor.numpy() for name, tensor in small_state.items()}
    state["classifier.1.bias"] = values
    message = r"expected finite floating point weights, not those of classifier\.1\.bias"
    with pytest.raises(UserError, match=message):
        pytorch_file.convert_from_state(state, "in.pt")


def test_classes_must_be_named_where_there_are_not_527(small_state, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "EXCERPT_SAMPLES", ())  # fewer programs to compile
    path, out = tmp_path / "in.pt", tmp_path / "named.safetensors"
    classes = tmp_path / "classes.csv"
    torch.save(small_state, path)
    classes.write_text("label\nbell\nhum\nsiren\n")
    with pytest.raises(UserError, match=r"has 3 classes .* --classes="):
        load_model.load_model(path)
    assert psl_jax.load(path, classes=classes).labels == ("bell", "hum", "siren")

    def run(classes):
        words = f"export {path} --format=safetensors --out={out} --classes={classes}"
        export.main(export.parse(words.split()))

    with pytest.raises(UserError, match=r"cannot read nowhere\.csv"):
        run("nowhere.csv")
    assert not out.exists()
    run(classes)
    assert load_model.load_model(out).classes == ("bell", "hum", "siren")
    with pytest.raises(UserError, match="names its classes itself"):
        load_model.load_model(out, ("a", "b", "c"))


def test_without_pytorch_the_error_says_what_to_install(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[torch\]'"):
        load_model.load_model(checkpoint)
