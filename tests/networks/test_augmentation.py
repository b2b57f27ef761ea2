from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from psl_jax.networks.augmentation import Augmentation, augment_waveform, mask_spectrogram, mixup

EXAMPLES = 256


def keys(count=EXAMPLES, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@lru_cache
def compiled(function, settings):
    return jax.jit(lambda keys, *arrays: function(keys, *arrays, settings))


def run(function, settings, *arrays, seed=0):
    made = compiled(function, settings)(keys(len(arrays[0]), seed), *arrays)
    return jax.tree.map(np.asarray, made)


def waveforms(samples=400):
    return np.random.default_rng(0).uniform(-1, 1, (EXAMPLES, samples)).astype(np.float32)


def spectrograms(frames=101, mels=64):
    """Values in (0, 1): none of them is likely to be the mean."""
    return np.random.default_rng(0).random((EXAMPLES, frames, mels)).astype(np.float32)


def labels(count=EXAMPLES, classes=5):
    return np.random.default_rng(1).random((count, classes)).astype(np.float32)


def test_gain_stays_within_its_bounds_in_db():
    audio = waveforms()
    out = run(augment_waveform, Augmentation(gain_probability=1.0), audio)
    decibel = 20 * np.log10(np.abs(out).max(axis=1) / np.abs(audio).max(axis=1))
    assert decibel.min() >= -18.001 and decibel.max() <= 6.001
    assert decibel.min() < -17 and decibel.max() > 5  # all of the range is used
    np.testing.assert_allclose(out, audio * 10 ** (decibel[:, None] / 20), rtol=1e-4, atol=1e-6)


def test_polarity_is_inverted_for_its_share_of_the_examples():
    audio = waveforms()
    out = run(augment_waveform, Augmentation(polarity_probability=0.5), audio)
    signs = out[:, 0] / audio[:, 0]
    np.testing.assert_array_equal(out, audio * signs[:, None])
    assert set(signs) == {-1.0, 1.0}
    assert abs((signs < 0).mean() - 0.5) < 5 * 0.5 / EXAMPLES**0.5  # five standard deviations


def test_waveform_augmentations_are_drawn_apart():
    settings = Augmentation(gain_probability=0.5, polarity_probability=0.5)
    audio = waveforms()
    out = run(augment_waveform, settings, audio)
    loudness = np.abs(out).max(axis=1) / np.abs(audio).max(axis=1)
    louder = np.abs(loudness - 1) > 1e-6
    inverted = np.array([b @ a < 0 for b, a in zip(out, audio, strict=True)])
    assert 0.15 < (louder & ~inverted).mean() < 0.35  # a quarter


def test_masks_have_the_mean_of_the_audio_and_not_of_the_padding():
    features = spectrograms()
    features[:, 30:] = -100
    settings = Augmentation(time_masks=2, time_mask_frames=20)
    program = jax.jit(lambda keys, x, valid: mask_spectrogram(keys, x, settings, valid))
    out = np.asarray(program(keys(), features, np.full(EXAMPLES, 30)))
    hidden = out != features
    means = np.broadcast_to(features[:, :30].mean(axis=(1, 2), keepdims=True), out.shape)
    assert hidden.any()
    np.testing.assert_allclose(out[hidden], means[hidden], rtol=1e-5)


def runs_of(hidden):
    """[start, end) of the runs of True in a bool [n]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden, [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


def hidden_places(settings, features):
    out = run(mask_spectrogram, settings, features)
    hidden = out != features
    means = np.broadcast_to(features.mean(axis=(1, 2), keepdims=True), out.shape)
    np.testing.assert_allclose(out[hidden], means[hidden], rtol=1e-5)
    return hidden


@pytest.mark.parametrize(
    ("settings", "axis"),
    [
        (Augmentation(time_masks=1, time_mask_frames=20), 1),
        (Augmentation(frequency_masks=1, frequency_mask_bins=8), 2),
    ],
)
def test_one_mask_is_one_band_of_up_to_its_size_anywhere(settings, axis):
    hidden = hidden_places(settings, spectrograms())
    longest = settings.time_mask_frames if axis == 1 else settings.frequency_mask_bins
    places = hidden.any(axis=3 - axis)  # [examples, frames or mels]
    np.testing.assert_array_equal(
        hidden, np.broadcast_to(np.expand_dims(places, 3 - axis), hidden.shape)
    )  # whole rows or columns
    widths = places.sum(axis=1)
    assert widths.min() == 0 and widths.max() == longest
    assert all(len(runs_of(row)) <= 1 for row in places)
    assert places.any(axis=0).all()  # both edges and all between are hidden in some example


def test_several_masks_hide_the_union_of_rows_and_columns():
    settings = Augmentation(
        time_masks=2, time_mask_frames=30, frequency_masks=2, frequency_mask_bins=8
    )
    hidden = hidden_places(settings, spectrograms())
    rows, columns = hidden.all(axis=2), hidden.all(axis=1)
    np.testing.assert_array_equal(hidden, rows[:, :, None] | columns[:, None, :])
    assert rows.sum(axis=1).max() > 30 and columns.sum(axis=1).max() > 8  # more than one mask
    assert rows.sum(axis=1).max() <= 60 and columns.sum(axis=1).max() <= 16
    assert max(len(runs_of(row)) for row in rows) == 2


def test_a_mask_is_no_longer_than_the_clip():
    settings = Augmentation(time_masks=1, time_mask_frames=60)
    hidden = hidden_places(settings, spectrograms(frames=11))
    assert hidden.any(axis=2).sum(axis=1).max() == 11


def test_mixup_mixes_neighbours_features_and_labels_alike():
    settings = Augmentation(mixup_alpha=0.5)
    features, targets = spectrograms(11, 8), labels()
    mixed, mixed_labels = run(mixup, settings, features, targets)
    partner = np.arange(EXAMPLES) ^ 1
    # λ of each example from its labels; the features must have been mixed with the same.
    difference = targets - targets[partner]
    weight = ((mixed_labels - targets[partner]) * difference).sum(1) / (difference**2).sum(1)
    for ours, before in ((mixed, features), (mixed_labels, targets)):
        w = weight.reshape(-1, *[1] * (before.ndim - 1))
        np.testing.assert_allclose(ours, w * before + (1 - w) * before[partner], atol=1e-4)
    assert weight.min() >= 0.5 - 1e-4 and weight.max() <= 1 + 1e-4
    assert np.abs(weight - weight[partner]).mean() > 0.05  # each example draws its own


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_weights_of_mixup_are_those_of_a_beta_distribution(alpha):
    count = 8192
    ones = np.tile(np.float32([[1.0], [0.0]]), (count // 2, 1))
    mixed, _ = run(mixup, Augmentation(mixup_alpha=alpha), ones, ones)
    weights = np.abs(np.asarray(mixed)[:, 0] - np.arange(count) % 2)
    beta = stats.beta(alpha, alpha)
    expected = stats.kstest(weights, lambda x: beta.cdf(x) - beta.cdf(1 - x))
    assert expected.statistic < 1.95 / count**0.5  # exceeded by one sample in a thousand


def test_mixup_pairs_need_an_even_batch():
    settings = Augmentation(mixup_alpha=0.5)
    with pytest.raises(ValueError, match="odd"):
        mixup(keys(3), jnp.zeros((3, 2, 2)), jnp.zeros((3, 1)), settings)


def test_augmentations_that_are_off_change_nothing():
    audio, features, targets = waveforms(), spectrograms(), labels()
    off = Augmentation()
    np.testing.assert_array_equal(run(augment_waveform, off, audio), audio)
    np.testing.assert_array_equal(run(mask_spectrogram, off, features), features)
    for ours, before in zip(run(mixup, off, features, targets), (features, targets), strict=True):
        np.testing.assert_array_equal(ours, before)


def test_a_narrow_network_trains_without_masks_and_mixup():
    masks = {"time_masks": 2, "frequency_masks": 2}
    settings = Augmentation(gain_probability=0.5, **masks, mixup_alpha=0.5, min_width=0.5)
    narrow = settings.for_width(0.25)
    assert settings.for_width(0.5) is settings
    assert narrow.gain_probability == settings.gain_probability > 0
    assert (narrow.time_masks, narrow.frequency_masks, narrow.mixup_alpha) == (0, 0, 0)
