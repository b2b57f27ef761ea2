"""A split in one uncompressed `.npz` file, read with NumPy alone."""

import dataclasses
import os
import struct
import zipfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.source import Source
from psl_jax.runtime import files, progress
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import local_copy

_AUDIO = "audio.npy"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: magic, name length, extra length


def pack(source: Source, path: str | os.PathLike) -> None:
    """Writes the split of `source` to `path`: its audio end to end (int16) and its index.

    Memory: a clip, whatever the split's size. The file appears when it is whole.
    Raises UserError for a full disk.
    """
    index = source.index
    with (
        plain_disk_errors(path, "Run the same command again."),
        files.atomic_open(path, "wb") as file,
        zipfile.ZipFile(file, "w") as archive,
        progress.bar(len(index), "clips", "pack") as bar,
    ):
        with archive.open(_aligned(_AUDIO), "w", force_zip64=True) as member:
            _write_header(member, int(index.num_samples.sum(dtype=np.int64)))
            for clip in range(len(index)):
                (audio,) = source.read_whole(np.array([clip]))
                member.write(audio.astype("<i2", copy=False).data)
                bar.update()
        for name, value in _index_arrays(index).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)


class PackedSource(Source):
    """A packed split: the `Source` that needs neither TensorFlow nor many files.

    Attributes:
      index: the ClipIndex.
      audio: int16 [samples], all clips end to end, mapped from the file and not read until used.
      offsets: int64 [clips + 1]; clip `i` is `audio[offsets[i]:offsets[i + 1]]`.
    """

    def __init__(self, path: str | os.PathLike):
        try:
            with local_copy(path) as local:  # what is mapped stays when its name is gone
                with open(local, "rb") as file, np.load(file) as data:
                    arrays = {name: data[name] for name in data.files if name != "audio"}
                self.audio = _map_audio(local)
            arrays |= {
                "split": str(arrays["split"]),
                "classes": tuple(map(str, arrays["classes"])),
            }
            self.index = ClipIndex(**arrays)
        except FileNotFoundError:
            raise UserError(f"{path}: no such packed data file") from None
        except (zipfile.BadZipFile, KeyError, TypeError, ValueError, OSError, EOFError) as error:
            raise UserError(
                f"{path} is not a whole file of packed data ({error}); pack the data again"
            ) from error
        self.offsets = np.concatenate([[0], np.cumsum(self.index.num_samples, dtype=np.int64)])
        if len(self.audio) != self.offsets[-1]:
            raise UserError(
                f"{path} holds {len(self.audio)} samples, its index {self.offsets[-1]}; pack the "
                "data again"
            )

    def read(
        self, clips: np.ndarray, starts: np.ndarray, counts: np.ndarray, rows: np.ndarray
    ) -> None:
        """See `Source.read`."""
        places = (self.offsets[clips] + starts).tolist()
        for row, place, count in zip(rows, places, counts.tolist(), strict=True):
            row[:count] = self.audio[place : place + count]

    def read_whole(self, clips: np.ndarray) -> Iterator[np.ndarray]:
        """See `Source.read_whole`."""
        yield from (self.audio[self.offsets[clip] : self.offsets[clip + 1]] for clip in clips)


def _index_arrays(index: ClipIndex) -> dict[str, np.ndarray]:
    arrays = {k: np.asarray(v) for k, v in dataclasses.asdict(index).items() if v is not None}
    return arrays | {"ids": np.asarray(index.ids, np.str_)}


def _write_header(member: IO[bytes], samples: int) -> None:
    header = {"descr": "<i2", "fortran_order": False, "shape": (samples,)}
    np.lib.format.write_array_header_2_0(member, header)


def _aligned(name: str) -> zipfile.ZipInfo:
    """The entry of the first member, with a header of 64 bytes: then its numbers are aligned."""
    info = zipfile.ZipInfo(name)
    zip64_extra = 20  # added by zipfile
    padding = -(30 + len(name) + zip64_extra + 4) % 64
    info.extra = struct.pack("<HH", 0xD935, padding) + bytes(padding)  # the id used for alignment
    return info


def _map_audio(path: str | os.PathLike) -> np.ndarray:
    """Maps the audio inside the archive, where it lies uncompressed."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(_AUDIO)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("its audio is compressed")
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise ValueError("its audio is not where its table of contents says")
        file.seek(name_length + extra_length, os.SEEK_CUR)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if dtype != np.dtype("<i2") or len(shape) != 1:
            raise ValueError(f"its audio is {dtype} {shape}, expected int16 [samples]")
        if not shape[0]:
            return np.empty(0, np.int16)
        return np.memmap(path, "<i2", mode="r", offset=file.tell(), shape=shape)
