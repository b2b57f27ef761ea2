"""Many uploads at once, some of whose senders go away, and pages from elsewhere."""

import io
import json
import socket
import threading
import time

import audio_files
import numpy as np
import pytest
import tagging
from serving import ask, served, wait_for

from psl_jax.tagging.events import EventSettings

pytest.importorskip("uvicorn", reason="needs the [serve] extra")
web = pytest.importorskip("psl_jax.web.service", reason="needs the [serve] extra")
uploads = pytest.importorskip("psl_jax.web.uploads", reason="needs the [serve] extra")

LIMITS = web.Limits(megabytes=20.0, minutes=60)


class SlowService(web.Service):
    """Tags nothing: a file takes until it is let go, or nobody waits for it."""

    def __init__(self):
        super().__init__(tagging.tagger(), tagging.tagger().segmentation(), EventSettings(), LIMITS)
        self.go, self.has_begun, self.cancelled = threading.Event(), [], []

    def decode(self, job):
        job.has_begun = True
        self.has_begun.append(job.name)
        while not self.go.is_set():
            if job.has_gone.is_set():
                self.cancelled.append(job.name)
            job.check()
            time.sleep(0.01)
        return io.BytesIO(b"RIFF")


def test_the_page_is_there_while_files_wait_and_too_many_are_refused():
    service, answers = SlowService(), []
    with served(service) as port:

        def upload(number):
            answers.append(ask(port, "POST", f"/page/wav?name={number}", b"x" * 1000))

        threads = [threading.Thread(target=upload, args=(i,)) for i in range(70)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answers) == 70 - uploads.MAX_WAITING)
        assert {status for status, _, _ in answers} == {429}
        assert all(headers["Retry-After"] for _, headers, _ in answers)
        assert "are waiting already" in json.loads(answers[0][2])["error"]
        start = time.monotonic()
        assert ask(port, "GET", "/static/page.css")[0] == 200
        assert time.monotonic() - start < 5
        service.go.set()
        for thread in threads:
            thread.join(30)
    assert [status for status, _, _ in answers].count(200) == uploads.MAX_WAITING
    assert len(service.has_begun) == uploads.MAX_WAITING


def test_how_far_an_upload_is_can_be_asked():
    service = SlowService()

    def progress(ticket):
        return json.loads(ask(port, "GET", f"/page/progress?ticket={ticket}")[2])

    with served(service) as port:
        first = send_and_leave(port, "first&ticket=one")
        wait_for(lambda: service.has_begun == ["first"])
        second = send_and_leave(port, "second&ticket=two")
        wait_for(lambda: progress("two")["state"] == "waiting")
        assert progress("one")["state"] == "tagging" and progress("one")["ahead"] == 0
        assert progress("two")["ahead"] == 1 and progress("three")["state"] == "unknown"
        assert ask(port, "POST", "/page/wav?ticket=one", b"x")[0] == 422
        service.go.set()
        wait_for(lambda: progress("two")["state"] == "unknown")
        first.close()
        second.close()


def send_and_leave(port, name):
    """Sends a whole upload; the connection, to be closed by the caller."""
    connection = socket.create_connection(("127.0.0.1", port))
    lines = (f"POST /page/wav?name={name} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Length: 4")
    head = "\r\n".join(lines) + "\r\n\r\n"
    connection.sendall(head.encode() + b"abcd")
    return connection


def test_what_nobody_waits_for_is_not_computed():
    service = SlowService()
    with served(service) as port:
        first, second = send_and_leave(port, "first"), None
        wait_for(lambda: service.has_begun == ["first"])
        second = send_and_leave(port, "second")
        time.sleep(0.3)
        second.close()  # it waits, and is never begun
        time.sleep(1.0)  # until that is noticed
        first.close()  # it is being tagged, and is given up
        wait_for(lambda: service.cancelled == ["first"])
        service.go.set()
        assert ask(port, "POST", "/page/wav?name=third", b"x")[0] == 200
    assert service.has_begun == ["first", "third"]


def service_of(limits):
    return web.Service(tagging.tagger(), tagging.tagger().segmentation(), EventSettings(), limits)


def test_a_file_of_ten_minutes_is_given_up_in_the_middle(tmp_path):
    service = service_of(LIMITS)
    path = audio_files.write(tmp_path / "long.flac", np.zeros(16_000 * 600))
    job = web.Job(str(path), "long")
    threading.Timer(0.5, job.has_gone.set).start()
    with pytest.raises(web.CancelledError):
        service.tag(job)


def test_pages_from_elsewhere_may_not_send():
    service = SlowService()
    service.go.set()
    with served(service) as port:
        for headers, status in (
            ({}, 200),  # no browser
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Sec-Fetch-Site": "same-origin", "Origin": "https://proxy.example"}, 200),
            ({"Origin": f"http://127.0.0.1:{port}"}, 200),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Origin": "http://elsewhere.example"}, 403),
            ({"Origin": "null"}, 403),
        ):
            assert ask(port, "POST", "/page/wav?name=x", b"x", **headers)[0] == status, headers
    assert len(service.has_begun) == 4


def test_any_address_of_this_machine_is_answered():
    with served(SlowService(), host="127.0.0.2") as port:
        assert ask(port, "GET", "/", host="127.0.0.2")[0] == 200
        assert ask(port, "GET", "/", host="127.0.0.2", Host="elsewhere.example")[0] == 400


def test_what_there_is_to_decode_is_bounded_and_not_its_length_alone(tmp_path):
    service = service_of(web.Limits(megabytes=20.0, minutes=0.1))
    wide = audio_files.write(tmp_path / "wide.flac", np.zeros((48_000 * 4, 8)), 48_000)
    with pytest.raises(web.RefusedError, match="too long"):  # 4 s of 8 channels
        service.tag(web.Job(str(wide), "wide"))
    plain = audio_files.write(tmp_path / "plain.flac", np.zeros((48_000 * 4, 2)), 48_000)
    assert service.tag(web.Job(str(plain), "plain")).seconds == pytest.approx(4.0)
