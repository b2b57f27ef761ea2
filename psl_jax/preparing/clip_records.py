"""Defines the features of a clip's record, and serializes clips."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from psl_jax.corpora.clip_rows import Clip
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def make_features(classes: Sequence[str], *, events: bool) -> "tfds.features.FeaturesDict":
    """Makes the TFDS features of a corpus with these classes, with or without strong labels.

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


def serialize(clip: Clip, *, events: bool) -> bytes:
    """Serializes a clip for `make_features(..., events=events)`, to the bytes that TFDS writes.

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
    record: bytes = example.SerializeToString(deterministic=True)
    return record
