"""Published weights by name, from an HTTP server on loopback."""

import functools
import hashlib
import http.server
import threading

import pytest

from psl_jax.runtime.errors import UserError
from psl_jax.teachers.open_teacher import parse_name
from psl_jax.weights import load_model
from psl_jax.weights.load_model import Weights, fetch_published

CONTENT = b"weights" * 1000


@pytest.fixture
def served(tmp_path, monkeypatch):
    """(address, requested paths): what a server gives of tmp_path/site; mn04 is there."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mn04.pt").write_bytes(CONTENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    requested = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requested.append(self.path)

    handler = functools.partial(Handler, directory=tmp_path / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/mn04.pt"
        yield address, requested
        server.shutdown()


def publish(monkeypatch, address, content=CONTENT):
    weights = Weights(address, hashlib.sha256(content).hexdigest(), "MIT")
    monkeypatch.setitem(load_model.PUBLISHED, "mn04", weights)


def test_weights_are_downloaded_once_and_then_need_no_server(served, monkeypatch):
    address, requested = served
    publish(monkeypatch, address)
    path = fetch_published("mn04")
    assert path.read_bytes() == CONTENT and requested == ["/mn04.pt"]
    kind, where = parse_name("mn04")
    assert (kind, where) == ("mn", str(path)) and requested == ["/mn04.pt"]
    publish(monkeypatch, "http://127.0.0.1:9/mn04.pt")
    assert fetch_published("mn04") == path


def test_another_file_is_refused_and_not_kept(served, monkeypatch, tmp_path):
    publish(monkeypatch, served[0], b"what was published")
    with pytest.raises(UserError, match=r"cannot download mn04 .*does not match the known hash"):
        fetch_published("mn04")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_without_a_connection_the_message_says_what_to_put_where(served, monkeypatch, tmp_path):
    publish(monkeypatch, "http://127.0.0.1:9/mn04.pt")
    message = rf"127\.0\.0\.1:9/mn04.* and copy it to {tmp_path}/cache/psl_jax/mn04\.pt$"
    with pytest.raises(UserError, match=message):
        fetch_published("mn04")
