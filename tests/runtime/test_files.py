import os

import pytest

from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.files import atomic_path


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "shard"
    path.write_text("before")
    with atomic_path(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_a_file_whose_writer_failed(tmp_path):
    def fail():
        with atomic_path(tmp_path / "shard") as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert not list(tmp_path.iterdir())


def test_no_file_where_nothing_was_written(tmp_path):
    with atomic_path(tmp_path / "shard"):
        pass
    assert not list(tmp_path.iterdir())


def test_writers_of_the_same_file_have_names_of_their_own(tmp_path):
    with atomic_path(tmp_path / "shard", "a.") as one, atomic_path(tmp_path / "shard", "b.") as two:
        assert one != two
        one.write_text("same")
        two.write_text("same")
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(path := tmp_path / "pipe")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as reader:
        files.write_csv(path, ["a"], [])
        assert reader.read() == "a\n" and path.is_fifo()


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b"", b"[]"])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "stages.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"stages\.json is damaged"):
        files.read_json(path)
    with pytest.raises(ValueError, match="damaged"):  # as callers expect that have other words
        files.read_json(path)
