"""Cutting audio and putting scores together: rows are where they are said to be."""

import numpy as np
import pytest

from psl_jax.audio.segments import Segmentation
from psl_jax.tagging import windowing
from psl_jax.tagging.windowing import FRAME_SAMPLES, MaxPool, Timeline, cut_segments


def blocks_of(audio: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    cuts = np.sort(rng.integers(0, len(audio) + 1, rng.integers(0, 9)))
    return np.split(audio, cuts)


def centres(piece: windowing.Window) -> np.ndarray:
    """A network that answers with the sample on which each output frame is centred."""
    frames = len(piece.audio) // FRAME_SAMPLES + 1
    row = np.zeros(piece.size, np.float32)
    piece.write(row)
    return row[: frames * FRAME_SAMPLES : FRAME_SAMPLES, None]


CUTS = [(2, None), (2, 0.5), (5, 1.3), (0.3, 0.1), (1.9, None)]


@pytest.mark.parametrize(("seconds", "hop"), CUTS)
def test_segments_cover_all_and_the_last_one_ends_with_the_waveform(seconds, hop):
    segmentation = Segmentation(seconds, hop)
    size, rng = segmentation.segment_samples, np.random.default_rng(0)
    for length in [1_600, 20_000, 32_000, 33_000, 40_001, *rng.integers(1_600, 300_000, 20)]:
        audio = rng.integers(-9, 9, length).astype(np.int16)
        cut = list(cut_segments(blocks_of(audio, rng), segmentation))
        last = max(length - size, 0)
        onsets = sorted({*range(0, last + 1, segmentation.hop_samples), last})  # one at the end
        before, *inside, after = cut
        assert [piece.onset for piece in inside] == onsets
        for onset, piece in zip(onsets, inside, strict=True):
            expected = audio[onset : onset + size]
            np.testing.assert_array_equal(piece.audio, expected)
            assert piece.is_inside and not piece.is_last
        lead = min(size // 2, 16_000, length - 1)
        heard = min(size - lead, length)
        padded = np.pad(audio, lead, mode="reflect")
        for piece, start in ((before, 0), (after, len(padded) - lead - heard)):
            assert piece.onset == start - lead and not piece.is_inside
            np.testing.assert_array_equal(piece.audio, padded[start:][: lead + heard])
        assert after.is_last and after.end == length


@pytest.mark.parametrize(("seconds", "hop"), CUTS)
def test_a_row_is_the_weighted_mean_of_the_frames_around_it(seconds, hop):
    segmentation = Segmentation(seconds, hop)
    rng = np.random.default_rng(1)
    for length in rng.integers(1_600, 400_000, 12):
        audio = rng.uniform(-1, 1, length).astype(np.float32)
        cut, grid = list(cut_segments([audio], segmentation)), Timeline()
        rows = np.concatenate([grid.add(piece, centres(piece)) for piece in cut])[:, 0]
        values: dict[int, list[tuple[float, float]]] = {}  # with their weights
        means = []
        last = length // FRAME_SAMPLES
        for piece in cut:
            found = centres(piece)[:, 0]
            if piece.is_inside:
                means.append(found.mean())
            for j, value in enumerate(found):
                row = (piece.onset + j * FRAME_SAMPLES + 2560) // FRAME_SAMPLES
                weight = min(j + 1, len(found) - j)
                if piece.is_inside or (row >= 0 and (piece is cut[0] or row <= last)):
                    values.setdefault(min(row, last), []).append((value, weight))
        assert sorted(values) == list(range(len(rows)))  # no row is empty
        means_of_rows = [
            np.average(*np.transpose(values[i])[:1], weights=np.transpose(values[i])[1])
            for i in range(len(rows))
        ]
        np.testing.assert_allclose(rows, means_of_rows, atol=1e-6)
        np.testing.assert_allclose(grid.score, np.mean(means), atol=1e-6)
        assert last <= len(rows) <= last + 1  # the last frame lies up to 0.32 s before the end


def test_pieces_are_followed_by_their_reflection():
    audio = np.random.default_rng(0).integers(-99, 99, 5000).astype(np.int16)
    _, piece, _ = cut_segments([audio], Segmentation(2.0))
    row = np.zeros(piece.size, np.float32)
    piece.write(row)
    np.testing.assert_array_equal(row[:5256] * 32768, np.pad(audio, (0, 256), mode="reflect"))
    assert not row[5256:].any()


@pytest.mark.parametrize("limit", [2, 7, 100])
def test_pool_keeps_maxima(limit):
    rng = np.random.default_rng(limit)
    for total in [1, 2, 3, 50, 333]:
        rows = rng.uniform(size=(total, 3))
        pool = MaxPool(limit)
        for part in blocks_of(rows, rng):
            pool.add(part)
        step, result = pool.step, pool.rows
        assert len(result) <= limit + 1 and (step == 1 or len(result) > limit // 2)
        parts = [rows[i : i + step].max(axis=0) for i in range(0, total, step)]
        np.testing.assert_array_equal(result, parts)
