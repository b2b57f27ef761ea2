"""The interface for programs: what it answers, what it refuses, and its description."""

import json
import tempfile
import urllib.parse

import audio_files
import numpy as np
import pytest
import tagging
from serving import ask, multipart, served
from tagging_page import expected

from psl_jax.commands import serve
from psl_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def clip(clips):
    return clips[0].read_bytes()


def tag(port, body, headers=None, **query):
    status, _, answer = ask(
        port, "POST", f"/api/v1/tag?{urllib.parse.urlencode(query)}", body, **(headers or {})
    )
    return status, json.loads(answer)


def has_events(answer, events):
    found = [(x["label"], x["onset"], x["offset"]) for x in answer["events"]]
    return found == [(x.label, round(x.onset, 2), round(x.offset, 2)) for x in events]


# --- What is answered -------------------------------------------------------------------------


def test_a_raw_body_and_a_form_are_answered_alike(port, clip, tags):
    status, raw = tag(port, clip, name="street.flac")
    body, headers = multipart(clip, "street.flac")
    assert (status, tag(port, body, headers)) == (200, (200, raw))
    best = np.argsort(-tags.scores, kind="stable")
    assert [x["label"] for x in raw["tags"]] == [tagging.LABELS[i] for i in best]
    scores = [x["score"] for x in raw["tags"]]
    np.testing.assert_allclose(scores, tags.scores[best], atol=1e-3)
    assert [x["threshold"] for x in raw["tags"] if x["label"] == "siren"] == [0.3]
    assert (raw["name"], raw["seconds"], raw["model"]) == ("street.flac", 7.3, "small")
    assert has_events(raw, expected(tags, threshold=0.6, own={"siren": 0.3}))
    assert raw["settings"] == {
        "threshold": 0.6,
        "thresholds": {"siren": 0.3},
        "median_filter": 1,
        "segment_seconds": 2.0,
        "hop_seconds": 0.5,
    }


def test_settings_of_a_request_hold_for_it(port, clip, tags):
    _, found = tag(port, clip, threshold=0.5, thresholds='{"dog": 0.8}', median_filter=3, top_k=2)
    wanted = expected(tags, threshold=0.5, own={"dog": 0.8}, median_filter=3)
    assert has_events(found, wanted) and len(found["tags"]) == 2
    assert found["settings"]["thresholds"] == {"dog": 0.8}  # the siren's gave way to threshold


def test_form_fields_count_like_the_query(port, clip):
    settings = {"threshold": 0.5, "thresholds": '{"dog": 0.8}', "median_filter": 3, "top_k": 2}
    by_query = tag(port, clip, name="street.flac", **settings)
    body, headers = multipart(clip, "other.flac", name="street.flac", **settings)
    assert tag(port, body, headers) == by_query and by_query[0] == 200
    for fields, query, words in [
        ({"treshold": 0.4}, {}, "there is no setting 'treshold'"),
        ({"threshold": 2}, {}, "threshold is '2', expected less than or equal to 1"),
        ({"threshold": 0.4}, {"threshold": 0.5}, "threshold is given 2 times; expected once"),
    ]:
        body, headers = multipart(clip, **fields)
        status, answer = tag(port, body, headers, **query)
        assert status == 422 and words in answer["error"]


def test_labels_and_health(port):
    status, _, body = ask(port, "GET", "/api/v1/labels")
    found = json.loads(body)
    assert status == 200 and [x["label"] for x in found["labels"]] == list(tagging.LABELS)
    assert [x["threshold"] for x in found["labels"]] == [0.6, 0.3, 0.6, 0.6, 0.6, 0.6]
    status, _, body = ask(port, "GET", "/healthz")
    health = json.loads(body)
    assert status == 200 and (health["status"], health["classes"]) == ("ok", 6)


# --- What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"threshold": "high"}, "threshold is 'high', expected a valid number"),
        ({"thresholds": "{"}, "thresholds is '{': Invalid JSON"),
        ({"thresholds": '{"dog": true}'}, "thresholds: dog is 'True', expected a valid number"),
        ({"thresholds": '{"dgo": 0.5}'}, "threshold: 'dgo' is none of the 6 classes (near: dog)"),
        ({"thresholds": '{"dog": 2}'}, "thresholds: dog is '2', expected less than or equal to 1"),
        ({"median_filter": 2}, "median_filter is 2, expected an odd number"),
        ({"top_k": 0}, "top_k is '0', expected greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_named(port, query, words):
    status, found = tag(port, b"x", **query)
    assert status == 422 and words in found["error"]


@pytest.mark.parametrize("query", ["threshold=2", "top_k=0", "treshold=0.4"])
def test_wrong_settings_are_refused_before_the_file_is_sent(port, query):
    announced = {"Content-Length": "900000", "Expect": "100-continue"}  # and nothing follows
    assert ask(port, "POST", f"/api/v1/tag?{query}", **announced)[0] == 422


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", {}, 415, "x.wav is empty."),
        (b"no audio at all", {}, 415, "x.wav cannot be tagged: undecodable"),
        (bytes(1_000_001), {}, 413, "x.wav is too large. Files of up to 1 MB are tagged here"),
        (b"{}", {"Content-Type": "application/json"}, 415, "expected the audio file itself"),
        (b"--x", {"Content-Type": "multipart/form-data"}, 422, "cannot be read"),
        (*multipart(b"", field="sound"), 422, "expected one in the field 'file'"),
        (*multipart(bytes(1_000_001)), 413, "x.wav is too large"),
        (*multipart(bytes(3_000_001)), 413, "x.wav is too large"),
    ],
)
def test_what_cannot_be_tagged_is_said_in_words(port, body, headers, status, words):
    found, answer = tag(port, body, headers, name="x.wav")
    assert found == status and words in answer["error"]


def test_too_large_is_found_without_an_announced_length(port):
    status, found = tag(port, iter([bytes(600_000)] * 2), name="../x.wav")
    assert status == 413 and found["error"].startswith("x.wav is too large")


def test_too_long_is_refused(port, tmp_path):
    long = audio_files.write(tmp_path / "x.flac", np.zeros(31 * 16_000))
    status, found = tag(port, long.read_bytes(), name="x.flac")
    assert status == 413 and "too long. Files of up to 0.5 minutes" in found["error"]


def test_a_server_without_room_says_so_in_json(port, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    status, found = tag(port, b"sound")
    assert status == 500 and found["kind"] == "disk" and "/no/such/folder" in found["error"]


def test_what_is_not_there_is_said_in_json(port):
    for method, path, status in [("GET", "/api/v2", 404), ("GET", "/api/v1/tag", 405)]:
        found, _, body = ask(port, method, path)
        assert found == status and json.loads(body)["error"]


# --- Who may ask ------------------------------------------------------------------------------


def test_a_token_is_needed_where_one_is_set(service, clip):
    with served(service, token="secret") as port:
        for given in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic secret"}):
            status, headers, body = ask(port, "POST", "/api/v1/tag", clip, **given)
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
            assert "Authorization: Bearer TOKEN" in json.loads(body)["error"]
        assert ask(port, "GET", "/api/v1/labels")[0] == 401
        assert ask(port, "POST", "/page/tag", clip)[0] == 401
        for public in ("/", "/healthz", "/api/v1/openapi.json"):
            assert ask(port, "GET", public)[0] == 200
        allowed = {"Authorization": "Bearer secret"}
        assert ask(port, "POST", "/api/v1/tag", clip, **allowed)[0] == 200
        document = json.loads(ask(port, "GET", "/api/v1/openapi.json")[2])
        assert document["paths"]["/api/v1/tag"]["post"]["security"] == [{"token": []}]


def test_pages_elsewhere_may_ask_where_they_are_named(service, clip):
    friend, other = {"Origin": "https://friend.example"}, {"Origin": "https://other.example"}
    with served(service, origins=("https://friend.example",)) as port:
        status, headers, _ = ask(port, "POST", "/api/v1/tag", clip, **friend)
        assert status == 200
        assert headers["Access-Control-Allow-Origin"] == "https://friend.example"
        assert ask(port, "POST", "/api/v1/tag", clip, **other)[0] == 403
        assert ask(port, "POST", "/page/tag", clip, **friend)[0] == 403
        asked = {"Access-Control-Request-Method": "POST"}
        assert ask(port, "OPTIONS", "/api/v1/tag", **friend, **asked)[0] == 200
        assert ask(port, "OPTIONS", "/api/v1/tag", **other, **asked)[0] == 400


def test_origins_are_checked(monkeypatch):
    assert serve.check_origins(["https://a.example:8443"]) == ("https://a.example:8443",)
    for wrong in ("a.example", "https://a.example/", "*"):
        with pytest.raises(UserError, match="allow_origin"):
            serve.check_origins([wrong])
    monkeypatch.setenv(serve.TOKEN_VARIABLE, "from the environment\n")  # as of a secret's file
    assert serve.parse(["serve", "model"]).token == "from the environment"
    with pytest.raises(UserError, match="give ASCII alone"):
        serve.parse(["serve", "model", "--token=geheim-ü"])


# --- The description against what is there ----------------------------------------------------


def test_the_description_holds_and_nothing_breaks(service):
    """Random requests by the OpenAPI document, right and wrong ones: no 5xx, answers as it says."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis import checks, specs
    from schemathesis.specs.openapi import schemas  # noqa: F401 (compiled before the server's threads)

    with served(service) as port:
        described = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/api/v1/openapi.json")
        wanted = [
            checks.not_a_server_error,
            specs.openapi.checks.status_code_conformance,
            specs.openapi.checks.content_type_conformance,
            specs.openapi.checks.response_schema_conformance,
        ]
        modes = schemathesis.GenerationMode
        for found in described.get_all_operations():
            operation = found.ok()
            wrong = [modes.NEGATIVE] if operation.method == "post" else []  # else nothing is sent
            for mode in (modes.POSITIVE, *wrong):

                @given(case=operation.as_strategy(generation_mode=mode))
                @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
                def holds(case):
                    case.call_and_validate(checks=wanted)

                holds()
