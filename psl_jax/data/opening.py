"""Opens a split, whatever it is stored as."""

import os

from psl_jax.data.sources import Source


def open_source(data_dir: str, split: str, packed: bool = False) -> Source:
    """A split of the prepared (or packed) data. TensorFlow is imported for the former only."""
    if packed:
        from psl_jax.data.packed_source import PackedSource

        return PackedSource(os.path.join(data_dir, f"{split}.npz"))
    from psl_jax.data.record_source import TFRecordSource

    return TFRecordSource.open(data_dir, split)
