"""Writes good and bad audio files and folders of one's own for the tests."""

import csv
import io
import pathlib

import numpy as np
import soundfile

RATE = 16_000


def tone(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A tone with a little noise, at most 0.5: float64 [frames] or [frames, channels]."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitches = rng.uniform(200, min(3000, 0.4 * rate), channels)
    sound = 0.35 * np.sin(2 * np.pi * pitches * time[:, None])
    sound += 0.02 * rng.standard_normal(sound.shape)
    return sound[:, 0] if channels == 1 else sound


def int16_noise(num_samples: int, seed: int = 0) -> np.ndarray:
    """int16 samples over the full range, both ends included."""
    samples = np.random.default_rng(seed).integers(-32768, 32768, num_samples).astype(np.int16)
    samples[:2] = -32768, 32767
    return samples


def write(path: pathlib.Path, samples: np.ndarray, rate: int = RATE, **kwargs) -> pathlib.Path:
    """Writes the samples in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **kwargs)
    return path


def write_tones(folder: pathlib.Path, *names: str, seconds: float = 0.3) -> None:
    """Writes a tone of its own under each name."""
    for number, name in enumerate(names):
        write(folder / name, tone(seconds, seed=number))


def truncate(path: pathlib.Path, share: float = 0.5) -> pathlib.Path:
    """Cuts the file to a share of its bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def encoded(
    samples: np.ndarray, rate: int = RATE, file_format: str = "FLAC", **options
) -> io.BytesIO:
    """The samples as a file in memory."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=file_format, **options)
    file.seek(0)
    return file


def bad_files(folder: pathlib.Path) -> dict[str, str]:
    """One unusable file of each kind in `folder`: file name to the kind it must be reported as."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.wav").write_bytes(b"")
    write(folder / "header_only.wav", np.zeros(0))
    truncate(write(folder / "truncated.flac", int16_noise(5 * RATE)))
    truncate(write(folder / "truncated.wav", int16_noise(5 * RATE)))
    (folder / "text.wav").write_text("this is no audio\n" * 20)
    nan = tone(2.0)
    nan[20_000] = np.nan
    write(folder / "nan.wav", nan, subtype="FLOAT")
    write(folder / "unscaled.wav", 32768 * tone(2.0), subtype="FLOAT")
    write(folder / "short.wav", tone(0.05))
    (folder / "folder.wav").mkdir()
    return {
        "empty.wav": "empty",
        "header_only.wav": "empty",
        "truncated.flac": "truncated",
        "truncated.wav": "truncated",
        "text.wav": "undecodable",
        "nan.wav": "not finite",
        "unscaled.wav": "undecodable",
        "short.wav": "too short",
        "folder.wav": "unreadable",
        "not_there.wav": "missing",
    }


def write_table(path: pathlib.Path, header: str, rows: list[tuple]) -> pathlib.Path:
    """A CSV with the comma-separated `header`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path
