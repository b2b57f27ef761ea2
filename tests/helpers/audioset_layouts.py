"""Writes the same clips in every layout in which people have AudioSet."""

import io
import json
import pathlib
import tarfile
from collections.abc import Mapping

import audio_files
import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import soxr

from psl_jax.corpora.audioset import ListedClip

RATE = 32_000  # as PANNs has it
MISSING = 7  # of the first rows of PANNs' file


def audio_of(segment: ListedClip) -> np.ndarray:
    """Noise over the time of the segment: int16 [samples] at 32 kHz."""
    rng = np.random.default_rng(list(segment.id.encode()))
    return rng.integers(-12_000, 12_000, round((segment.end - segment.start) * RATE)).astype(
        np.int16
    )


def resampled(segment: ListedClip) -> np.ndarray:
    """The same at 16 kHz, by soxr in one piece: int16 [samples]."""
    samples = soxr.resample(audio_of(segment) / 32768.0, RATE, 16_000, quality="HQ")
    return np.rint(32768 * samples).astype(np.int16)


def stem(naming: str, segment: ListedClip) -> str:
    """A file name without its extension, of one of NAMINGS."""
    start, end = round(segment.start * 1000), round(segment.end * 1000)
    return naming.format(id=segment.id, start=start, end=end)


def write_folder(
    root: pathlib.Path, segments: Mapping[str, ListedClip], naming: str, suffix: str
) -> None:
    """Audio files named by `naming`, in three folders."""
    for segment in segments.values():
        name = f"{stem(naming, segment)}.{suffix}"
        audio_files.write(root / f"part{ord(segment.id[3]) % 3}" / name, audio_of(segment), RATE)


def write_mixed_folder(root: pathlib.Path, segments: Mapping[str, ListedClip]) -> None:
    """Audio files, each named in the next of NAMINGS, as wav and flac in turn."""
    for number, (clip, segment) in enumerate(segments.items()):
        suffix = ("wav", "flac")[number % 2]
        write_folder(root, {clip: segment}, NAMINGS[number % len(NAMINGS)], suffix)


def write_parquet(root: pathlib.Path, segments: Mapping[str, ListedClip]) -> None:
    """Two files of several row groups with embedded flac, as on the hub."""
    root.mkdir(parents=True)
    rows = []
    for segment in segments.values():
        audio = {"bytes": _flac(segment), "path": f"{segment.id}.flac"}
        rows.append({"video_id": segment.id, "audio": audio, "labels": ["/m/09x0r"]})
    for number, half in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
        table = pyarrow.Table.from_pylist(half)
        pyarrow.parquet.write_table(table, root / f"{number:02d}.parquet", row_group_size=8)


def write_tars(root: pathlib.Path, segments: Mapping[str, ListedClip]) -> None:
    """Webdataset shards: audio beside its description."""
    root.mkdir(parents=True)
    with tarfile.open(root / "0.tar", "w") as first, tarfile.open(root / "1.tar", "w") as second:
        for number, segment in enumerate(segments.values()):
            archive = (first, second)[number % 2]
            description = json.dumps({"id": segment.id}).encode()
            for suffix, content in (("json", description), ("flac", _flac(segment))):
                member = tarfile.TarInfo(f"data/{segment.id}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_panns(root: pathlib.Path, segments: Mapping[str, ListedClip]) -> None:
    """One HDF5 file of zero-padded rows; those of missing clips have an empty name."""
    root.mkdir(parents=True)
    rows = len(segments) + MISSING
    with h5py.File(root / "waveforms.h5", "w") as file:
        file.create_dataset("audio_name", shape=(rows,), dtype="S20")
        file.create_dataset("waveform", shape=(rows, 10 * RATE), dtype=np.int16, chunks=(1, RATE))
        file.create_dataset("target", shape=(rows, 527), dtype=bool)
        file.attrs.create("sample_rate", data=RATE, dtype=np.int32)
        for row, segment in enumerate(segments.values(), MISSING):
            samples = audio_of(segment)
            file["audio_name"][row] = f"Y{segment.id}.wav".encode()
            file["waveform"][row, : len(samples)] = samples


def write_psl(root: pathlib.Path, segments: Mapping[str, ListedClip]) -> None:
    """One HDF5 file with a data set of 16 kHz samples for each file name."""
    root.mkdir(parents=True)
    with h5py.File(root / "balanced.h5", "w") as file:
        for segment in segments.values():
            file[f"{segment.id}.wav"] = resampled(segment)


def _flac(segment: ListedClip) -> bytes:
    return audio_files.encoded(audio_of(segment), RATE).getvalue()


NAMINGS = ("{id}", "Y{id}", "{id}_{start}", "{id}_{start}_{end}", "Y{id}_{start}-{end}")  # in ms
LAYOUTS = {
    "files": write_mixed_folder,
    "parquet": write_parquet,
    "tar": write_tars,
    "panns": write_panns,
    "psl": write_psl,
}
