"""Opens a split, whatever it is stored as."""

import os

from psl_jax.data.source import Source
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of


def open_source(data_dir: str, split: str, packed: bool = False) -> Source:
    """A split of the prepared (or packed) data."""
    if packed:
        from psl_jax.data.packed_source import PackedSource

        return PackedSource(os.path.join(data_dir, f"{split}.npz"))
    return Source.open(data_dir, split)


def open_folder(folder: str | os.PathLike, split: str) -> Source:
    """A split of a prepared or packed data set, whichever `folder` is or has below it."""
    path = path_of(folder)
    if not path.is_dir():
        raise UserError(f"{folder} is no folder: give that of a prepared or packed data set")
    if (path / f"{split}.npz").exists():
        return open_source(os.fspath(path), split, packed=True)
    from psl_jax.data import index_files

    data_dir = index_files.find_data_dir(path)
    packed = sorted(file.stem for file in path.glob("*.npz"))
    if packed and not (path_of(data_dir) / "dataset_info.json").exists():
        raise UserError(f"{folder} has no split {split!r}; it has {', '.join(packed)}")
    return open_source(data_dir, split)
