"""Teachers of the transformers library: against its own pipeline, on small random models."""

import json
import pathlib
import warnings

import numpy as np
import pytest
import soxr
import synthetic_data

from psl_jax.commands import classes, evaluate, fit, relabel
from psl_jax.networks.class_lists import audioset_classes
from psl_jax.runtime.errors import UserError
from psl_jax.scoring.settings import RelabelSettings
from psl_jax.teachers import open_teacher

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

NAMES = ("Dog", "Vehicle horn, car horn, honking", "Cat")
SMALL = {"hidden_size": 16, "intermediate_size": 16}
SMALL |= {"num_hidden_layers": 1, "num_attention_heads": 2}
OWN_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput

class Config(PretrainedConfig):
    model_type = "of_a_stranger"

class Loudness(PreTrainedModel):
    config_class = Config
    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Linear(1, config.num_labels)
        self.post_init()
    def forward(self, input_values, attention_mask=None):
        loudness = input_values.abs().mean(-1, keepdim=True)
        return SequenceClassifierOutput(logits=self.scale(loudness)FUNCTION)

class Samples(SequenceFeatureExtractor):
    model_input_names = ["input_values"]
    def __call__(self, waveform, sampling_rate, return_tensors):
        return self.pad({"input_values": [waveform]}, return_tensors=return_tensors)
"""


def save(folder: pathlib.Path, network: str, rate: int = 16_000, **config) -> str:
    """Writes a random model of NAMES; scores of its classes differ with the audio."""
    config = {"id2label": dict(enumerate(NAMES)), "label2id": {}} | config
    torch.manual_seed(0)
    if network == "ast":
        settings = transformers.ASTConfig(**SMALL, num_mel_bins=32, max_length=1024, **config)
        model = transformers.ASTForAudioClassification(settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            extractor = transformers.ASTFeatureExtractor(sampling_rate=rate, num_mel_bins=32)
    elif network == "wav2vec2":
        settings = transformers.Wav2Vec2Config(
            **SMALL, conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8), **config
        )
        settings.num_conv_pos_embeddings, settings.num_conv_pos_embedding_groups = 16, 4
        model = transformers.Wav2Vec2ForSequenceClassification(settings)
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    else:
        sizes = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
        settings = transformers.WhisperConfig(d_model=16, num_mel_bins=16, **sizes, **config)
        model = transformers.WhisperForAudioClassification(settings)
        extractor = transformers.WhisperFeatureExtractor(feature_size=16)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.mul_(3)
            if parameter_name.startswith("classifier") and parameter_name.endswith("bias"):
                parameter.sub_(1)  # else the logits of noise might look like probabilities
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return f"transformers:{folder}"


def save_own_code(folder: pathlib.Path, function: str = "") -> str:
    """Writes a model that brings its own Python code; `function` is applied to its logits."""
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "loud.py").write_text(OWN_CODE.replace("FUNCTION", function))
    auto_map = {"AutoConfig": "loud.Config", "AutoModelForAudioClassification": "loud.Loudness"}
    labels = {"id2label": dict(enumerate(NAMES)), "problem_type": "multi_label_classification"}
    config = {"model_type": "of_a_stranger", "auto_map": auto_map, **labels}
    (folder / "config.json").write_text(json.dumps(config))
    extractor = {"feature_extractor_type": "Samples", "sampling_rate": 16_000, "feature_size": 1}
    extractor |= {"padding_value": 0.0, "auto_map": {"AutoFeatureExtractor": "loud.Samples"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    arrays = {"scale.weight": np.float32([[9], [-9], [0]]), "scale.bias": np.zeros(3, np.float32)}
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    return f"transformers:{folder}"


def score(teacher, audio: np.ndarray, data_rate: int = 16_000) -> np.ndarray:
    """Scores int16 [n, samples] at 16 or 32 kHz, of which a batch holds two samples a tick."""
    rows = audio.reshape(len(audio), -1, 2) if data_rate == 32_000 else audio
    ticks = np.full(len(rows), rows.shape[1], np.int32)
    batch = {"audio": rows, "num_samples": ticks, "weight": np.ones(len(rows), np.float32)}
    return next(iter(teacher.make_scorer()([batch])))[1]


def run_pipeline(name: str, waveforms, rate: int, output: str, data_rate=16_000) -> np.ndarray:
    """Scores waveforms at `data_rate` by transformers' pipeline at `rate`: [n, classes]."""
    folder = name.removeprefix("transformers:")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = transformers.pipeline(
            "audio-classification", folder, device="cpu", trust_remote_code=True
        )
    rows = []
    for waveform in waveforms:
        if rate != data_rate:
            waveform = soxr.resample(waveform, data_rate, rate, quality="HQ")
        scores = pipe(waveform, top_k=None, function_to_apply=output)
        by_name = {score["label"]: score["score"] for score in scores}
        rows.append([by_name[name] for name in NAMES])
    return np.array(rows)


def make_noise(num_rows: int, seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    loudness = np.geomspace(100, 8000, num_rows)[:, None]
    return (rng.standard_normal((num_rows, round(16_000 * seconds))) * loudness).astype(np.int16)


@pytest.mark.parametrize(
    ("network", "rate", "data_rate", "seconds", "output"),
    [
        ("ast", 16_000, 32_000, 2.0, "sigmoid"),
        ("ast", 16_000, 32_000, 5.0, "sigmoid"),
        ("ast", 16_000, 32_000, 10.0, "sigmoid"),
        ("ast", 32_000, 16_000, 5.0, "sigmoid"),
        ("ast", 16_000, 16_000, 10.0, "softmax"),
        ("wav2vec2", 16_000, 32_000, 1.0, "softmax"),
        ("whisper", 16_000, 16_000, 2.0, "sigmoid"),
        ("own_code", 16_000, 16_000, 1.0, "sigmoid"),
    ],
)
def test_scores_are_those_of_the_pipeline(tmp_path, network, rate, data_rate, seconds, output):
    if network == "own_code":
        name = save_own_code(tmp_path / "model")
        with pytest.raises(UserError, match=r"Python code of its own.*--trust_remote_code"):
            open_teacher.open_teacher(name, NAMES)
    else:
        problem = {"sigmoid": "multi_label", "softmax": "single_label"}[output]
        problem_type = f"{problem}_classification"
        name = save(tmp_path / "model", network, rate, problem_type=problem_type)
    mapping = RelabelSettings(trust_remote_code=network == "own_code")
    teacher = open_teacher.open_teacher(name, NAMES, mapping)
    assert teacher.classes == NAMES and teacher.rate == rate
    audio = make_noise(3, seconds * data_rate / 16_000)
    expected = run_pipeline(name, audio / np.float32(32_768), rate, output, data_rate)
    assert expected.std(axis=0).max() > 1e-3
    np.testing.assert_allclose(score(teacher, audio, data_rate), expected, atol=1e-5)


def test_longer_audio_than_the_extractor_keeps_is_scored_in_windows(tmp_path):
    name = save(tmp_path / "model", "ast", problem_type="multi_label_classification")
    teacher = open_teacher.load_teacher(open_teacher.parse_name(name))
    scorer, batch_sizes = teacher.make_scorer(), []
    size = round(16_000 * scorer._classifier.context_seconds)
    audio = make_noise(1, 24.0)
    starts = [0, size // 2, size, audio.shape[1] - size]
    windows = np.concatenate([audio[:, start : start + size] for start in starts])
    expected = score(teacher, windows).mean(axis=0)
    scorer._classifier.model.register_forward_hook(
        lambda module, inputs, outputs: batch_sizes.append(len(outputs.logits))
    )
    assert scorer.fitting(3, 24.0) == 3
    scorer.score(audio / np.float32(32_768))
    assert batch_sizes == [3, 1]
    np.testing.assert_allclose(score(teacher, audio)[0], expected, atol=1e-5)


def test_long_audio_of_own_code_is_scored_alone(tmp_path):
    """CED's code mixes the clips of a batch that are longer than 10 s."""
    name = open_teacher.parse_name(save_own_code(tmp_path / "model"))
    scorer = open_teacher.load_teacher(name, trust_remote_code=True).make_scorer()
    batch_sizes = []
    scorer._classifier.model.register_forward_hook(
        lambda module, inputs, outputs: batch_sizes.append(len(outputs.logits))
    )
    for seconds in (10.0, 10.5):
        scorer.score(make_noise(2, seconds) / np.float32(32_768))
    assert batch_sizes == [2, 1, 1]


def test_what_makes_probabilities(tmp_path):
    name = save(tmp_path / "few", "ast")
    with pytest.raises(UserError, match=r"problem_type of its config.json is None.*few:softmax"):
        open_teacher.open_teacher(name, NAMES)
    audio = make_noise(2, 1.0)
    for output in ("sigmoid", "softmax"):
        teacher = open_teacher.load_teacher(open_teacher.parse_name(f"{name}:{output}"))
        assert teacher.output == output
        expected = run_pipeline(name, audio / np.float32(32_768), 16_000, output)
        np.testing.assert_allclose(score(teacher, audio), expected, atol=1e-5)
    by_itself = save_own_code(tmp_path / "model", ".sigmoid()")
    trusted = RelabelSettings(trust_remote_code=True)
    with pytest.raises(UserError, match=r"look like probabilities.*model:none"):
        open_teacher.open_teacher(by_itself, NAMES, trusted)
    teacher = open_teacher.open_teacher(f"{by_itself}:none", NAMES, trusted)
    expected = run_pipeline(by_itself, audio / np.float32(32_768), 16_000, "none")
    np.testing.assert_allclose(score(teacher, audio), expected, atol=1e-5)
    labels = dict(enumerate(f"LABEL_{number}" for number in range(527)))
    many = save(tmp_path / "audioset", "ast", id2label=labels)
    teacher = open_teacher.open_teacher(many, audioset_classes())
    assert not np.allclose(score(teacher, audio).sum(axis=1), 1)
    reversed_names = audioset_classes()[::-1]
    (tmp_path / "audioset.classes.csv").write_text(
        "\n".join(["label", *(f'"{name}"' for name in reversed_names)])
    )
    assert open_teacher.load_teacher(open_teacher.parse_name(f"{many}/")).classes == reversed_names
    with pytest.raises(UserError, match="expected a folder, or USER/NAME"):
        open_teacher.open_teacher("transformers:nowhere", NAMES)


def test_names_that_code_cuts_or_leaves_out(tmp_path):
    """As CED's does: it cuts AudioSet's names at the first comma, and names no other classes."""
    cut_names = dict(enumerate(name.partition(",")[0] for name in audioset_classes()))
    assert len(set(cut_names.values())) < 527
    name = save(tmp_path / "cut", "ast", id2label=cut_names)
    assert open_teacher.load_teacher(open_teacher.parse_name(name)).classes == audioset_classes()
    name = save(tmp_path / "from_one", "wav2vec2", id2label=dict(enumerate(NAMES, start=1)))
    with pytest.raises(UserError, match=r"3 values, .* has 3 classes, 1 to 3: expected 0 to 2"):
        open_teacher.load_teacher(open_teacher.parse_name(name))
    name = open_teacher.parse_name(save_own_code(tmp_path / "nameless"))
    code = tmp_path / "nameless/loud.py"
    text = code.read_text().replace("config.num_labels", "3")
    code.write_text(text.replace("self.post_init()", "self.post_init(); config.id2label = None"))
    with pytest.raises(UserError, match=r"3 classes and does not name them: .*nameless\.classes"):
        open_teacher.load_teacher(name, trust_remote_code=True)
    (tmp_path / "nameless.classes.csv").write_text("label\nRain\nDog\nCat\n")
    teacher = open_teacher.load_teacher(name, trust_remote_code=True)
    assert teacher.classes == ("Rain", "Dog", "Cat")


def test_random_weights_and_code_from_elsewhere_are_refused(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    name = save(tmp_path / "encoder", "ast", problem_type="multi_label_classification")
    weights = safetensors.load_file(tmp_path / "encoder/model.safetensors")
    encoder = {key: values for key, values in weights.items() if "classifier" not in key}
    safetensors.save_file(encoder, tmp_path / "encoder/model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="no weights for classifier"):
        open_teacher.open_teacher(name, NAMES)
    name = save_own_code(tmp_path / "model")
    config = tmp_path / "model/config.json"
    config.write_text(config.read_text().replace("loud.Loudness", "a/repository--loud.Loudness"))
    with pytest.raises(UserError, match=r"its config\.json names code in another.*a/repository--"):
        open_teacher.open_teacher(name, NAMES, RelabelSettings(trust_remote_code=True))


def test_commands_use_them(tmp_path, capsys):
    name = save(tmp_path / "model", "wav2vec2", problem_type="multi_label_classification")
    index = synthetic_data.make_index([4, 3], 20_000)
    audio = synthetic_data.make_audio(index)
    synthetic_data.write_prepared(tmp_path / "data", index, audio, "eval")

    def run(command, *options):
        arguments = [name, tmp_path / "data", *options]
        command.main(command.parse([command.__name__, *map(str, arguments)]))

    class_map = tmp_path / "map.csv"
    class_map.write_text("class,teacher_class\nclass 0,Dog\nclass 1,Cat\nclass 2,Cat\n")
    options = ("--split=eval", "--segment_seconds=1", f"--class_map={class_map}")
    run(relabel, *options, f"--out={tmp_path / 'labels'}")
    (entry,) = json.loads((tmp_path / "labels/manifest.json").read_text())["teachers"]
    assert entry["kind"] == "transformers" and entry["output"] == "sigmoid"
    run(relabel, *options, "--dtype=bfloat16", f"--out={tmp_path / 'narrow'}")
    assert json.loads((tmp_path / "narrow/manifest.json").read_text())["dtype"] == "bfloat16"
    run(evaluate, *options, f"--out={tmp_path / 'scores'}")
    run(fit, "--split=eval", f"--out={tmp_path / 'fitted.npz'}")
    fitted = open_teacher.open_teacher(tmp_path / "fitted.npz", index.classes)
    assert score(fitted, make_noise(2, 1.0)).shape == (2, 3)
    run(classes, f"--out={tmp_path / 'draft.csv'}")
    assert "3 without any" in capsys.readouterr().out
