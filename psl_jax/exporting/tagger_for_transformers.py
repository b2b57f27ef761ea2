"""Opens the folder of a published model with transformers: configuration, extractor and model.

    from transformers import pipeline

    tag = pipeline("audio-classification", FOLDER, trust_remote_code=True, top_k=None)
    tag("street.wav")  # the probability of each class in the whole file

Before transformers 5.23 the pipeline needs function_to_apply="sigmoid" too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput

from .audio_tagger import AudioTagger

_LEAST_SAMPLES = 1600  # shorter waveforms are filled with silence


class TaggerConfig(PretrainedConfig):  # type: ignore[misc]
    """The arguments of `AudioTagger`; its classes stand in `id2label`."""

    model_type = "psl_jax"

    def __init__(
        self,
        network: str = "mobilenet_v2",
        width: float = 1.0,
        top_db: float | None = 120.0,
        sample_rate: int = 16_000,
        **settings: Any,
    ):
        super().__init__(**settings)
        self.network, self.width, self.top_db = network, width, top_db
        self.sample_rate = sample_rate


class TaggerFeatureExtractor(SequenceFeatureExtractor):  # type: ignore[misc]
    """Pads waveforms to the longest, and marks what is audio: the model takes waveforms."""

    model_input_names = ("input_values", "attention_mask")

    def __call__(
        self,
        waveforms: np.ndarray | Sequence[Any],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **_: Any,
    ) -> Any:
        """Makes input_values [batch, samples] of one waveform [samples], or of a list of them.

        Raises ValueError for another sample rate than the model's.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"audio has {sampling_rate} Hz, expected {self.sampling_rate}")
        is_single = not any(np.ndim(row) for row in waveforms[:1])
        rows = [np.asarray(row, np.float32) for row in ([waveforms] if is_single else waveforms)]
        rows = [np.pad(row, (0, max(_LEAST_SAMPLES - len(row), 0))) for row in rows]
        return self.pad(
            {"input_values": rows}, return_attention_mask=True, return_tensors=return_tensors
        )


class TaggerForAudioClassification(PreTrainedModel):  # type: ignore[misc]
    """The network; its logits are those of the mean probability over a row's frames."""

    config_class = TaggerConfig
    base_model_prefix = "tagger"
    main_input_name = "input_values"

    def __init__(self, config: TaggerConfig):
        super().__init__(config)
        is_softmax = config.problem_type == "single_label_classification"
        self.tagger = AudioTagger(
            config.num_labels,
            config.width,
            config.top_db,
            output="softmax" if is_softmax else "sigmoid",
            network=config.network,
            sample_rate=config.sample_rate,
        )
        self.post_init()

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Computes logits [batch, classes] of waveforms [batch, samples] in [-1, 1].

        attention_mask: [batch, samples], 1 for audio and 0 for the padding behind it.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values)
        lengths = attention_mask.sum(1).long()
        probabilities = input_values.new_zeros(len(lengths), self.config.num_labels)
        for length in set(lengths.tolist()):  # rows of one length at a time: no padding
            has_length = lengths == length
            probabilities[has_length] = self.tagger(input_values[has_length, :length])[0]
        probabilities = probabilities.clamp(min=1e-30)  # the logarithm stays finite
        logits = probabilities.log()
        if self.config.problem_type != "single_label_classification":
            logits = logits - torch.log1p(-probabilities.clamp(max=1 - 2**-24))
        return SequenceClassifierOutput(logits=logits)
