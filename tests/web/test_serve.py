"""The command, and what the page asks of the server."""

import io
import json
import socket
import wave

import audio_files
import numpy as np
import pytest
import tagging
from serving import ask

from psl_jax.commands import review, serve
from psl_jax.runtime.errors import UserError


def test_the_page_is_given_all_there_is_to_draw(port, clips, tags):
    path = "/page/tag?name=street%20%26%20%3Cb%3E.flac"
    status, _, body = ask(port, "POST", path, clips[0].read_bytes())
    size = int.from_bytes(body[:4], "little")
    about = json.loads(body[4 : 4 + size])
    assert (status, about["name"], about["seconds"]) == (200, clips[0].name, 7.3)
    assert about["labels"] == list(tagging.LABELS)
    np.testing.assert_allclose(about["scores"], tags.scores, atol=1e-3)
    rest = body[4 + size :]
    shape = tags.frame_scores.shape
    scores = np.frombuffer(rest[: 2 * shape[0] * shape[1]], "<u2").reshape(shape) / 65535
    np.testing.assert_allclose(scores, tags.frame_scores, atol=1e-4)
    mel, columns = about["mel"], about["wave"]["columns"]
    pictures = rest[2 * scores.size :]
    assert len(pictures) == mel["columns"] * mel["bands"] + 2 * columns
    assert mel["step"] * mel["columns"] == pytest.approx(7.3, abs=0.02)
    sound = tagging.recording(7.3).astype(float) / 32768
    ups, downs = np.frombuffer(pictures[-2 * columns :], np.uint8).reshape(2, -1) / 255
    assert ups.max() == pytest.approx(sound.max(), abs=0.01)
    assert downs.max() == pytest.approx(-sound.min(), abs=0.01)


def test_page_and_its_parts_load_nothing_from_elsewhere(port):
    paths = ["/", "/static/main.js", "/static/page.css", "/static/wavesurfer/wavesurfer.esm.js"]
    for path in paths:
        status, headers, body = ask(port, "GET", path)
        assert status == 200 and headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        named = body.replace(b"http://www.w3.org/1999/xhtml", b"")  # a name, not an address
        assert b"http://" not in named and b"https://" not in named
    for path in ("/static/pages.py", "/static/..%2fpages.py", "/static/LICENSE", "/main.js"):
        assert ask(port, "GET", path)[0] == 404


def test_each_page_has_its_own_nonce(port):
    first, second = (ask(port, "GET", "/")[1]["Content-Security-Policy"] for _ in range(2))
    assert "'nonce-" in first and first != second


def test_a_name_made_to_point_here_is_refused(port):
    assert ask(port, "GET", "/", Host="evil.example")[0] == 400
    assert ask(port, "GET", "/", Host="localhost")[0] == 200


def test_decoded_audio_for_what_the_browser_cannot_play(port, tmp_path):
    sound = audio_files.tone(1.0, 44_100, 2)
    path = audio_files.write(tmp_path / "x.aiff", sound, 44_100)
    status, _, body = ask(port, "POST", "/page/wav?name=x.aiff", path.read_bytes())
    with wave.open(io.BytesIO(body)) as file:
        assert (status, file.getframerate(), file.getnframes()) == (200, 16_000, 16_000)
    assert ask(port, "POST", "/page/wav?name=x.aiff", b"nothing")[0] == 415


@pytest.mark.parametrize(
    ("command", "option", "told"),
    [
        (serve, "--port=70000", "--port is 70000, expected a number at least 0 and at most 65535"),
        (serve, "--token= \n", "--token is white space alone"),
        (review, "--segment_seconds=-1", "--segment_seconds is -1.0, expected"),
        (review, "--random_share=nan", "--random_share is nan, expected"),
    ],
)
def test_values_that_cannot_be_are_named(command, option, told):
    with pytest.raises(UserError, match=told):
        command.parse(["psl-jax", "model", "data", option])


def test_a_port_in_use_is_a_user_error(port):
    with pytest.raises(UserError, match=f"port {port} .*another psl-jax serve or review.*--port"):
        serve.listen("127.0.0.1", port)
    with pytest.raises(UserError, match="cannot listen"):
        serve.listen("no.such.host.invalid", 0)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_all_addresses_of_ipv6_are_those_of_ipv4_too():
    with serve.listen("::", 0) as listener:
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])).close()


def test_loopback_is_the_default():
    assert serve.parse(["serve", "model"]).host == "127.0.0.1"
