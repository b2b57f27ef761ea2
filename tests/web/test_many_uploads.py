"""Many uploads at once, some of whose senders go away, and pages from elsewhere."""

import contextlib
import http.client
import json
import socket
import threading
import time

import audio_files
import numpy as np
import pytest
import tagging

from psl_jax import serve
from psl_jax.tagging.events import EventSettings

uvicorn = pytest.importorskip("uvicorn", reason="needs the [serve] extra")
web = pytest.importorskip("psl_jax.web.application", reason="needs the [serve] extra")

LIMITS = web.Limits(megabytes=20.0, minutes=60)


class SlowService(web.Service):
    """Tags nothing: a file takes until it is let go, or nobody waits for it."""

    def __init__(self):
        super().__init__(tagging.tagger(), None, EventSettings(), LIMITS)
        self.go, self.begun, self.cancelled = threading.Event(), [], []

    def tag(self, path, name, cancelled):
        self.begun.append(name)
        while not self.go.is_set():
            if cancelled.is_set():
                self.cancelled.append(name)
                raise web.CancelledError
            time.sleep(0.01)
        return {"name": name}


@contextlib.contextmanager
def served(service, host="127.0.0.1"):
    with contextlib.closing(serve.listen(host, 0)) as listener:
        app = web.application(service, host=host)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def ask(port, method, path, body=None, host="127.0.0.1", **headers):
    connection = http.client.HTTPConnection(host, port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Host": f"{host}:{port}"} | headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_page_is_there_while_files_wait_and_too_many_are_refused():
    service, answers = SlowService(), []
    with served(service) as port:

        def upload(number):
            answers.append(ask(port, "POST", f"/tag?name={number}", b"x" * 1000))

        threads = [threading.Thread(target=upload, args=(i,)) for i in range(70)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) == 70 - web.MAX_WAITING)
        assert {status for status, _, _ in answers} == {429}
        assert all(headers["Retry-After"] for _, headers, _ in answers)
        assert "are waiting already" in json.loads(answers[0][2])["error"]
        start = time.monotonic()
        assert ask(port, "GET", "/serve.js")[0] == 200
        assert time.monotonic() - start < 5
        service.go.set()
        for thread in threads:
            thread.join(30)
    assert [status for status, _, _ in answers].count(200) == web.MAX_WAITING
    assert len(service.begun) == web.MAX_WAITING


def send_and_leave(port, name):
    """Sends a whole upload; the connection, to be closed by the caller."""
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"POST /tag?name={name} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 4\r\n\r\n"
    connection.sendall(head.encode() + b"abcd")
    return connection


def test_what_nobody_waits_for_is_not_computed():
    service = SlowService()
    with served(service) as port:
        first, second = send_and_leave(port, "first"), None
        wait_until(lambda: service.begun == ["first"])
        second = send_and_leave(port, "second")
        time.sleep(0.3)
        second.close()  # it waits, and is never begun
        time.sleep(1.0)  # until that is noticed
        first.close()  # it is being tagged, and is given up
        wait_until(lambda: service.cancelled == ["first"])
        service.go.set()
        assert ask(port, "POST", "/tag?name=third", b"x")[0] == 200
    assert service.begun == ["first", "third"]


def test_a_real_file_is_given_up(tmp_path):
    """In the middle of ten minutes."""
    service = web.Service(
        tagging.tagger(), tagging.tagger().segmentation(), EventSettings(), LIMITS
    )
    path = audio_files.write(tmp_path / "long.flac", np.zeros(16_000 * 600))
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    with pytest.raises(web.CancelledError):
        service.tag(str(path), "long", cancelled)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_from_elsewhere_may_not_send(headers, status):
    service = SlowService()
    service.go.set()
    with served(service) as port:
        assert ask(port, "POST", "/tag?name=x", b"x", **headers)[0] == status
        own = {"Origin": f"http://127.0.0.1:{port}"}
        assert ask(port, "POST", "/tag?name=x", b"x", **own)[0] == 200
        assert len(service.begun) == (2 if status == 200 else 1)


def test_any_address_of_this_machine_is_answered():
    with served(SlowService(), "127.0.0.2") as port:
        assert ask(port, "GET", "/", host="127.0.0.2")[0] == 200
        assert ask(port, "GET", "/", host="127.0.0.2", Host="elsewhere.example")[0] == 400


def test_what_there_is_to_decode_is_bounded_and_not_its_length_alone(tmp_path):
    limits = web.Limits(megabytes=20.0, minutes=0.1)
    service = web.Service(tagging.tagger(), None, EventSettings(), limits)
    wide = audio_files.write(tmp_path / "wide.flac", np.zeros((48_000 * 4, 8)), 48_000)
    with pytest.raises(web.RefusedError, match="too long"):  # 4 s of 8 channels
        service.tag(str(wide), "wide", threading.Event())
    plain = audio_files.write(tmp_path / "plain.flac", np.zeros((48_000 * 4, 2)), 48_000)
    assert service.tag(str(plain), "plain", threading.Event())["seconds"] == pytest.approx(4.0)
