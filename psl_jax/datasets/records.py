"""What a record of a clip holds: the one owner of its features and its in-memory form."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from psl_jax.datasets import tensorflow_quietly
from psl_jax.datasets.problems import Problem

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip ready to be written."""

    id: str
    audio: np.ndarray  # int16 [samples], 16 kHz mono
    labels: tuple[int, ...]  # weak labels, class indices
    events: tuple[tuple[float, float, int], ...] | None = None  # onset, offset (s), class index


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What became of one row: its clip, unless it is unusable, and what there is to report."""

    clip: Clip | None
    problems: tuple[Problem, ...] = ()
    source_rate: int | None = None  # of the recording, Hz


Loader = Callable[[Any], Loaded]  # a row of a corpus to its clip; pure and picklable


def features(classes: Sequence[str], *, events: bool) -> "tfds.features.FeaturesDict":
    """The TFDS features of a corpus with these classes, with or without strong labels.

    Serialized as flat tf.train.Example features: "id" and "audio" (little-endian int16) are bytes,
    "labels" and "events/label" int64 lists, "events/onset" and "events/offset" float lists.
    """
    import tensorflow_datasets as tfds  # the rest of this module serves machines without it

    label = tfds.features.ClassLabel(names=list(classes))
    contents: dict[str, Any] = {
        "id": tfds.features.Text(),
        "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
        "labels": tfds.features.Sequence(label),
    }
    if events:
        contents["events"] = tfds.features.Sequence(
            {"onset": np.float32, "offset": np.float32, "label": label}
        )
    return tfds.features.FeaturesDict(contents)


def serialized(clip: Clip, *, events: bool) -> bytes:
    """The clip as a record of `features(..., events=events)`: the bytes that TFDS would write.

    TFDS's serializer copies the audio several times, which is most of the time of a 16 kHz clip.
    The order of features is fixed, else files would differ between processes.
    """
    example = tensorflow_quietly().train.Example()
    fields = example.features.feature
    fields["id"].bytes_list.value.append(clip.id.encode())
    fields["audio"].bytes_list.value.append(clip.audio.astype("<i2", copy=False).tobytes())
    fields["labels"].int64_list.value.extend(clip.labels)
    if events:
        onsets, offsets, labels = zip(*clip.events, strict=True) if clip.events else ((), (), ())
        fields["events/onset"].float_list.value.extend(onsets)
        fields["events/offset"].float_list.value.extend(offsets)
        fields["events/label"].int64_list.value.extend(labels)
    return example.SerializeToString(deterministic=True)
