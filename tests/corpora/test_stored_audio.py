"""Audio in archives, asked for by many threads at once."""

import random
import subprocess
import sys
import time
from unittest import mock

import audio_files
import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from psl_jax.audio.readers import DecodeError
from psl_jax.corpora import stored_audio
from psl_jax.corpora.corpus import ClipRow, load_clip
from psl_jax.corpora.stored_audio import FileAudio, Hdf5Audio, ParquetAudio, TarAudio
from psl_jax.runtime.ordered_map import ordered_map

ROWS, WORKERS = 320, 32


@pytest.fixture
def parquet(tmp_path):
    """A file of one row group, with a tone of its own pitch in each row."""
    rows = []
    for number in range(ROWS):
        content = audio_files.encoded(np.full(1700, number, np.int16)).getvalue()
        rows.append({"id": str(number), "audio": {"bytes": content}})
    path = tmp_path / "all.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=ROWS)
    return str(path)


@pytest.mark.parametrize("wanted", [range(ROWS), range(0, ROWS, 7)])
def test_a_row_group_is_decoded_once_for_many_threads(parquet, monkeypatch, wanted):
    """Threads ask nearly in order: what one passed over is kept for another."""
    batches = []
    advance = stored_audio._ParquetGroup._advance

    def counting(group):
        batches.append(1)
        advance(group)

    monkeypatch.setattr(stored_audio._ParquetGroup, "_advance", counting)
    rng = random.Random(0)

    def load(number):
        time.sleep(rng.uniform(0, 0.02))  # so that a late one asks after many others
        audio = ParquetAudio(parquet, "audio.bytes", 0, number).decode()
        return int(audio.samples[0])

    stored_audio._parquet_group.cache_clear()
    assert list(ordered_map(load, wanted, WORKERS)) == list(wanted)
    assert len(batches) <= ROWS // 16 + 1


def test_a_row_may_be_asked_for_again(parquet):
    for number in (40, 3, 3, 300, 40):
        audio = ParquetAudio(parquet, "audio.bytes", 0, number).decode()
        assert int(audio.samples[0]) == number


def test_what_is_passed_over_is_bounded(parquet, monkeypatch):
    monkeypatch.setattr(stored_audio, "_KEPT_BYTES", 2000)
    stored_audio._parquet_group.cache_clear()
    for number in range(0, ROWS, 31):
        ParquetAudio(parquet, "audio.bytes", 0, number).decode()
    group = stored_audio._parquet_group(parquet, "audio.bytes", 0)
    assert sum(map(len, group._kept.values())) < 2000 + 17 * 500


def test_pannss_files_stay_open(tmp_path, monkeypatch):
    """Clips come mixed over the 41 files into which PANNs packs AudioSet."""
    for number in range(41):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["waveform"] = np.tile(audio_files.int16_noise(3200, seed=number), (20, 1))
    opens = mock.Mock(wraps=h5py.File)
    monkeypatch.setattr(h5py, "File", opens)
    stored_audio._hdf5_file.cache_clear()
    places = [(number, row) for number in range(41) for row in range(20)]
    random.Random(0).shuffle(places)

    def load(place):
        path = str(tmp_path / f"{place[0]}.h5")
        return int(Hdf5Audio(path, "waveform", place[1], 16_000).decode().samples[5])

    found = list(ordered_map(load, places, WORKERS))
    expected = [int(audio_files.int16_noise(3200, seed=number)[5]) for number, _ in places]
    assert found == expected and opens.call_count == 41
    stored_audio._hdf5_file.cache_clear()


def test_damaged_archives_name_the_reason(tmp_path, monkeypatch):
    """Errors of buckets have no number; a file of PANNs may have fewer waveforms than names."""

    def fail(path):
        raise OSError("no access to the bucket")

    monkeypatch.setattr(stored_audio, "open_ranges", fail)
    with pytest.raises(DecodeError, match=r"unreadable: clips\.tar: no access to the bucket"):
        TarAudio("clips.tar", 0, 100).decode()
    path = str(tmp_path / "short.h5")
    with h5py.File(path, "w") as file:
        file["waveform"] = np.zeros((2, 3200), np.int16)
    with pytest.raises(DecodeError, match=r"unreadable: .*short\.h5: "):
        Hdf5Audio(path, "waveform", 2, 16_000).decode()


def test_a_program_that_ends_within_a_recording_closes_it(tmp_path):
    audio_files.write(tmp_path / "long.wav", audio_files.tone(3.0, 8_000), 8_000)
    code = f"""
import atexit
atexit.register(lambda: print(stored_audio._open_recording.cache_info().currsize))
from psl_jax.corpora import stored_audio
stored_audio.RecordingPart({str(tmp_path / "long.wav")!r}, 0, 16_000).decode()
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "0\n"


@pytest.mark.parametrize("events", [((0.2, 0.4, 0), (2.0, 2.5, 1)), ((2.0, 2.5, 0), (2.0, 2.5, 1))])
def test_labels_of_events_that_are_cut_away_are_told(tmp_path, events):
    """The file is longer than a clip may be: its later events are no mistake, but go."""
    audio_files.write(tmp_path / "a.wav", audio_files.tone(3.0))
    row = ClipRow("a", "a.wav", FileAudio(str(tmp_path / "a.wav")), (0, 1), events)
    loaded = load_clip(row, 1.0)
    kinds = [problem.kind for problem in loaded.problems]
    assert kinds == ["cut", "label cut away"]
    num_kept = sum(onset < 1 for onset, _, _ in events)
    assert f"{2 - num_kept} of 2 labels" in loaded.problems[1].detail
    assert (loaded.clip.labels if loaded.clip else ()) == (0,) * num_kept
