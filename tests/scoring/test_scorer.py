import types
from unittest import mock

import pytest

from psl_jax.runtime import parallel
from psl_jax.scoring.scorer import Scorer


@pytest.mark.parametrize(
    ("platform", "devices", "batch_size", "seconds", "expected"),
    [
        ("cpu", 1, 0, 2.0, 32),
        ("cpu", 3, 0, 10.0, 33),  # the next that divides
        ("cpu", 3, 64, 2.0, 66),
        ("tpu", 8, 0, 2.0, 8 * 512),
        ("tpu", 8, 0, 5.0, 8 * 256),
        ("gpu", 1, 0, 10.0, 128),
        ("tpu", 4, 0, 60.0, 4 * 17),  # 17 minutes each
        ("tpu", 4, 10, 2.0, 12),
    ],
)
def test_a_batch_fits_the_devices(platform, devices, batch_size, seconds, expected):
    scorer = types.SimpleNamespace(mesh=types.SimpleNamespace(size=devices))
    with mock.patch.object(parallel, "platform_of", return_value=platform):
        assert Scorer.fitting(scorer, batch_size, seconds) == expected
