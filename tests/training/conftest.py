import pytest
import small_experiments


@pytest.fixture
def data(tmp_path):
    return small_experiments.write_data(tmp_path / "data")
