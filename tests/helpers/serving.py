"""A server in this process, and requests to it."""

import contextlib
import http.client
import threading
import time


@contextlib.contextmanager
def served(service, table=None, **access):
    """The port of a server for `service`, or of an application; `access`: see `access.Access`."""
    import uvicorn

    from psl_jax.commands import serve
    from psl_jax.web import application
    from psl_jax.web.access import Access
    from psl_jax.web.service import Service

    given = Access(**access)
    with contextlib.closing(serve.listen(given.host, 0)) as listener:
        app = service
        if isinstance(service, Service):
            app = application.make_application(service, given, table)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def ask(port, method, path, body=None, host="127.0.0.1", **headers):
    """(status, headers, body) of a request."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Host": f"{host}:{port}"} | headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def multipart(content, filename="x.wav", field="file", **fields):
    """(body, headers) of a form with a file."""
    parts = [
        f'--line\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'Content-Disposition: form-data; name="{field}"; filename="{filename}"\r\n'
    parts.append(f"--line\r\n{head}Content-Type: audio/wav\r\n\r\n".encode() + content + b"\r\n")
    body = b"".join(parts) + b"--line--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=line"}


def wait_for(condition, seconds=60):
    """What `condition` returns once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
    return found
