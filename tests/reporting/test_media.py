"""Pictures and sounds that go into a page."""

import io

import numpy as np
import pytest

from psl_jax.reporting import media


def test_the_png_is_what_other_programs_read():
    image = pytest.importorskip("matplotlib.image", reason="needs the [plot] extra")
    rows = np.random.default_rng(0).integers(0, 256, (64, 37)).astype(np.uint8)
    found = image.imread(io.BytesIO(media.png(rows)), format="png")
    np.testing.assert_array_equal(np.rint(255 * found[..., :3]), media.palette()[rows])


@pytest.mark.parametrize(
    ("seconds", "last"), [(0.4, 0.4), (1.0, 1.0), (10.0, 10), (29.9, 25), (1800.0, 1800)]
)
def test_ticks_are_few_and_inside(seconds, last):
    found = media.ticks(seconds)
    assert found[0] == 0 and found[-1] == pytest.approx(last) and len(found) <= 7


def test_what_is_louder_is_lighter():
    lightness = media.palette() @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= 0).all() and lightness[-1] > 150
