"""What the tests of label files share."""

import label_data
import pytest


@pytest.fixture
def data(tmp_path):
    """Packed clips whose labels are read and written."""
    label_data.write_data(tmp_path / "data", label_data.index())
    return tmp_path / "data"
