"""Many uploads at once against a server: answers, static files meanwhile, memory, an abort.

    python benchmarks/serve_load.py RUN [--uploads 100] [--seconds 60]

Starts psl-jax serve for the run, sends so many uploads of a recording (noise, so many seconds) at
once, and asks for a static file every 20 ms meanwhile. Then an upload of an hour is broken off, and
the time until the server listens to nothing any more is measured.
"""

import argparse
import collections
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import soundfile


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, response.read()


def recording(seconds: float) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 3000, round(seconds * 16_000)).astype(np.int16)
    soundfile.write(file, noise, 16_000, format="WAV")
    return file.getvalue()


def memory(pid: int) -> float:
    """Resident megabytes of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def start(run: str) -> tuple[subprocess.Popen, int]:
    command = [sys.executable, "-m", "psl_jax", "serve", run, "--port", "0", "--max_minutes", "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[1].rsplit(":", 1)[1])
    while True:
        try:
            if ask(port, "GET", "/healthz")[0] == 200:
                break
        except OSError:
            time.sleep(0.2)
    ask(port, "POST", "/api/v1/tag", recording(60))  # compiled
    return process, port


def many(port: int, pid: int, uploads: int, sound: bytes) -> None:
    answers: collections.Counter[int] = collections.Counter()
    taken, peaks, done = [], [], threading.Event()

    def upload() -> None:
        try:
            answers[ask(port, "POST", "/api/v1/tag", sound)[0]] += 1
        except OSError as error:
            print(f"an upload failed: {error}")

    def look() -> None:
        while not done.is_set():
            begin = time.perf_counter()
            ask(port, "GET", "/static/main.js")
            taken.append(time.perf_counter() - begin)
            peaks.append(memory(pid))
            time.sleep(0.02)

    before = memory(pid)
    threads = [threading.Thread(target=upload) for _ in range(uploads)]
    looking = threading.Thread(target=look)
    begin = time.perf_counter()
    looking.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    done.set()
    looking.join()
    print(
        f"{uploads} uploads of {len(sound) / 1e6:.1f} MB at once: {dict(answers)}, {seconds:.1f} s"
    )
    low, high = np.quantile(taken, [0.5, 0.99]) * 1000
    print(f"static files: {low:.0f} ms at the median, {high:.0f} ms at the 99th percentile")
    print(f"memory: {before:.0f} MB before, {max(peaks):.0f} MB at most")


def aborted(port: int, sound: bytes) -> None:
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"POST /page/tag?ticket=x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    connection.sendall(f"{head}Content-Length: {len(sound)}\r\n\r\n".encode() + sound)
    while True:
        found = json.loads(ask(port, "GET", "/page/progress?ticket=x")[1])
        if found["seconds"] > 100:
            break
        time.sleep(0.05)
    begin = time.perf_counter()
    connection.close()
    while json.loads(ask(port, "GET", "/healthz")[1])["waiting"]:
        time.sleep(0.01)
    print(f"an aborted hour stopped after {time.perf_counter() - begin:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--uploads", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    process, port = start(arguments.run)
    try:
        many(port, process.pid, arguments.uploads, recording(arguments.seconds))
        aborted(port, recording(3600))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
