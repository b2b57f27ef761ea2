"""Places in buckets as paths, on servers of buckets on loopback: gs:// and s3://."""

import http.server
import json
import os
import pathlib
import pickle
import threading

import bucket_server
import pytest

from psl_jax.runtime import disk_errors, files, paths
from psl_jax.runtime.errors import UserError


@pytest.fixture(scope="module", params=("gs", "s3"))
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    is_s3 = request.param == "s3"
    with bucket_server.serving_s3() if is_s3 else bucket_server.serving(folder) as bucket:
        yield bucket


@pytest.fixture
def seen(monkeypatch):
    """Lets this process see the buckets of an environment."""
    packages = [pytest.importorskip(name) for name in ("gcsfs", "s3fs")]
    from psl_jax.runtime import buckets

    def forget():
        packages[0].GCSFileSystem.clear_instance_cache()
        packages[1].S3FileSystem.clear_instance_cache()
        buckets.file_system.cache_clear()

    def see(environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        forget()

    yield see
    forget()


@pytest.fixture
def place(server, seen, request):
    """A place of the test's own."""
    seen(server.environment)
    return paths.path_of(f"{server.url}/{request.node.originalname}")


def test_a_local_path_is_pathlibs():
    assert type(paths.path_of("a/b")) is type(pathlib.Path("a/b"))
    assert paths.absolute("a") == pathlib.Path.cwd() / "a"
    assert not paths.is_remote("odd:gs://") and not paths.is_remote("a://b")
    with pytest.raises(UserError, match=r"az://b/x: expected gs:// or s3://"):
        paths.path_of("az://b/x")


def test_a_place_is_a_path(place):
    assert os.fspath(place / "a" / "b.json") == f"{place.protocol}://bkt/{place.name}/a/b.json"
    assert paths.path_of(f"{place}/") == place and paths.absolute(place) == place
    assert os.path.join(place, "x") == os.fspath(place / "x")
    assert (place / "b.json").suffix == ".json" and (place / "b").parent == place
    assert pickle.loads(pickle.dumps(place)) == place


def _write_half(opened):
    with opened as target:
        target.write_text("begun") if isinstance(target, pathlib.Path) else target.write("begun")
        raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's
def test_files_there_are_written_whole_or_not_at_all(place, server):
    files.write_json(place / "a.json", {"é": [1, 2]})
    assert files.read_json(place / "a.json") == {"é": [1, 2]}
    assert server.get(f"{place.name}/a.json") == b'{\n  "\\u00e9": [\n    1,\n    2\n  ]\n}\n'
    large = os.urandom(9 << 20)  # sent in pieces
    with files.atomic_open(place / "large", "wb") as file:
        file.write(large)
    assert (place / "large").read_bytes() == large and (place / "large").stat().st_size == 9 << 20
    for opened in (files.atomic_open, files.atomic_path):
        with pytest.raises(ZeroDivisionError):
            _write_half(opened(place / "broken"))
    assert not (place / "broken").exists()
    files.write_csv(place / "t.csv", ("a", "b"), [(1, "x,y")])
    with (place / "t.csv").open(newline="") as file:
        assert file.read() == 'a,b\r\n1,"x,y"\r\n'
    with pytest.raises(ValueError, match="written whole"):
        (place / "t.csv").open("a")


def test_what_is_there_is_found(place):
    assert not place.exists() and list(place.glob("*")) == [] and list(place.rglob("*")) == []
    for name in ("a.txt", "d/b.txt", "d/e/c.bin"):
        (place / name).write_bytes(name.encode())
    assert place.is_dir() and not place.is_file() and (place / "d").exists()
    assert (place / "a.txt").is_file() and not (place / "a").exists()
    assert [one.name for one in place.iterdir()] == ["a.txt", "d"]
    assert list(place.glob("*/b.txt")) == [place / "d" / "b.txt"]
    assert [one.name for one in place.rglob("*.txt")] == ["a.txt", "b.txt"]
    wanted = [place / "a.txt", place / "none", place / "d/b.txt", place / "no/where"]
    assert files.read_sizes(wanted) == [5, None, 7, None]
    with paths.local_copy(place) as local:
        found = {one.relative_to(local).as_posix() for one in local.rglob("*") if one.is_file()}
    assert found == {"a.txt", "d/b.txt", "d/e/c.bin"} and not local.exists()
    assert (place / "a.txt").rename(place / "f.txt").read_text() == "a.txt"
    paths.remove_tree(place / "d")
    assert [one.name for one in place.iterdir()] == ["f.txt"]
    (place / "f.txt").unlink()
    (place / "f.txt").unlink(missing_ok=True)
    for read in (place.read_bytes, (place / "f.txt").unlink, lambda: list(place.iterdir())):
        with pytest.raises(FileNotFoundError, match=str(place)):
            read()


def test_what_others_write_is_seen_at_once(place, server):
    assert not (place / "a").exists() and files.exist([place / "a", place / "b"]) == [False, False]
    server.put(f"{place.name}/a", b"1")
    assert (place / "a").exists() and files.exist([place / "a", place / "b"]) == [True, False]
    server.put(f"{place.name}/a", b"22")
    assert (place / "a").stat().st_size == 2 and (place / "a").read_bytes() == b"22"


def test_ranges_of_objects_are_read_together(place):
    contents = [bytes(range(100)), bytes(range(100, 200))]
    for number, content in enumerate(contents):
        (place / str(number)).write_bytes(content)
    wanted = [(1, 3, 9), (0, 50, 100), (1, 99, 100), (0, 0, 1)]
    numbers, starts, ends = zip(*wanted, strict=True)
    found = paths.read_ranges([f"{place}/{number}" for number in numbers], starts, ends)
    assert found == [contents[number][start:end] for number, start, end in wanted]
    with pytest.raises(FileNotFoundError, match="no such object"):
        paths.read_ranges([f"{place}/0", f"{place}/2"], [0, 0], [1, 1])


def test_a_bucket_that_is_not_there(place):
    from psl_jax.runtime import buckets

    buckets.check(place)
    lost = f"{place.protocol}://lost"
    for do in (
        lambda: buckets.check(f"{lost}/x"),
        lambda: files.write_json(f"{lost}/x.json", 1),
        lambda: disk_errors.check_writable(f"{lost}/run", "--workdir"),
    ):
        with pytest.raises(UserError, match=f"there is no bucket {lost}"):
            do()


class _Refusing(http.server.BaseHTTPRequestHandler):
    """Answers each request as a store does where there is no permission."""

    protocol_version = "HTTP/1.1"  # s3fs waits for "100 Continue"

    def _refuse(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        text = "me@x does not have storage.objects.list access to the bucket."
        error = {"error": {"code": 403, "message": text, "errors": [{"reason": "forbidden"}]}}
        content = json.dumps(error).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if self.command != "HEAD" else b"")

    do_GET = do_POST = do_PUT = do_HEAD = _refuse  # noqa: N815

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize(
    ("place", "variable"),
    [("gs://bkt/x", "STORAGE_EMULATOR_HOST"), ("s3://bkt/x", "AWS_ENDPOINT_URL")],
)
def test_no_permission_is_told(seen, place, variable):
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen(keys | {variable: f"http://127.0.0.1:{server.server_port}"})
        path = paths.path_of(place)
        for do in (path.exists, path.read_bytes, lambda: files.write_json(path, 1)):
            with pytest.raises(UserError, match=f"{place}: no permission, or no credentials"):
                do()
        server.shutdown()
