import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from psl_jax.data.batches import TimeShift, roll_rows
from psl_jax.data.segment_loader import reflect_end


def test_shifts_reach_the_fraction_of_each_clip_either_way():
    lengths = np.repeat([40, 24, 3], 2000).astype(np.int32)
    shifts = TimeShift(1.0, 0.5, seed=0).draw(5, 0, lengths)
    assert shifts.dtype == np.int32
    for length, reach in ((40, 20), (24, 12), (3, 1)):
        assert set(shifts[lengths == length]) == set(range(-reach, reach + 1))


def test_a_share_of_the_clips_is_shifted():
    shifts = TimeShift(0.25, 0.5, seed=0).draw(0, 0, np.full(4000, 16_000))
    assert abs((shifts != 0).mean() - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5


def test_shifts_are_a_function_of_seed_step_and_process():
    lengths = np.full(16, 16_000)

    def draw(seed, step, process):
        return TimeShift(1.0, 0.5, seed).draw(step, process, lengths).tolist()

    drawn = [draw(*key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert drawn[0] == draw(0, 0, 0)
    assert len(set(map(tuple, drawn))) == 4


@given(st.integers(1, 1200), st.integers(0, 700), st.integers(-600, 600), st.integers(0, 2**32 - 1))
def test_a_clip_is_rolled_as_if_its_end_had_been_reflected_after(length, padding, shift, seed):
    shift = int(np.fmod(shift, length))
    clip = np.random.default_rng(seed).integers(-9, 9, length).astype(np.int16)

    def in_a_row(samples):
        row = np.concatenate([samples, np.zeros(padding, np.int16)])
        reflect_end(row, length)
        return row

    audio = np.stack([in_a_row(clip), in_a_row(clip)])
    roll_rows(audio, np.array([length] * 2), np.array([shift, 0]))
    rolled = np.array([clip[(i - shift) % length] for i in range(length)], np.int16)
    np.testing.assert_array_equal(audio[0], in_a_row(rolled))
    np.testing.assert_array_equal(audio[1], in_a_row(clip))
