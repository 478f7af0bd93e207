"""What is refused, in one line and never as a fault of the service."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rearec.serving import schema

KNOWN = {"histories": [["item-001"]]}
TEXT = {"content-type": "application/json"}


def refused(response: Any, status: int) -> str:
    """The one line of an answer that is none."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (line,) = response.json().values()
    assert list(response.json()) == ["error"] and line and "\n" not in line and len(line) < 500
    return str(line)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ('{"histories": [["a"]], "k": 0}', 422, "k: Input should be greater than or equal to 1"),
        ('{"histories": [["a"]], "k": 1001}', 422, "k: Input should be less than or equal to 1000"),
        ('{"histories": [["a"]], "k": 1e400}', 422, "k: "),
        ('{"histories": [["a"]], "k": NaN}', 422, "k: Input should be a valid integer"),
        ('{"histories": [["a"]], "k": true}', 422, "k: Input should be a valid integer"),
        ('{"histories": [["a"]], "k": "3"}', 422, "k: Input should be a valid integer"),
        ('{"histories": [["a", 1.5]]}', 422, "histories.0.1: expected an id, a text"),
        ('{"histories": [["a", true]]}', 422, "histories.0.1: expected an id"),
        ('{"histories": [["\\ud800"]]}', 422, "histories.0.0: expected an id"),
        ('{"histories": ["ab"]}', 422, "histories.0: Input should be a valid list"),
        ('{"histories": []}', 422, "histories: List should have at least 1 item"),
        ('{"k": 3}', 422, "histories: Field required"),
        ('{"histories": [["a"]], "top": 3}', 422, "top: Extra inputs are not permitted"),
        ('{"histories": [["a"]], "steps": -1}', 422, "steps: "),
        ('{"histories": [["a"]], "steps": 3}', 422, "steps: got 3, expected 0..2"),
        ('{"histories": [["a"]], "deny": [["b"], ["c"]]}', 422, "deny: got 2 lists, expected one for each of the 1"),
        ('{"histories": [["a"]], "allow": ["b"]}', 422, "allow: no item of it is in the catalogue (b)"),
        ('{"histories": [["a"]], "model": "../run"}', 404, "model: there is no '../run'; there are small"),
        ('{"histories": [["a"]]', 422, "request: not json, at character"),
        ("[" * 100_000, 400, "There was an error parsing the body"),
        ('{"histories": [[' + "9" * 5_000 + "]]}", 400, "There was an error parsing the body"),
        ("", 422, "request: "),
        ("null", 422, "request: "),
        ("[]", 422, "request: expected a json object"),
        (b"\xff\xfe\x00", 400, "There was an error parsing the body"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_wrong_body_is_told_in_one_line(body: Any, status: int, message: str, client: TestClient) -> None:
    assert message in refused(client.post("/v1/recommend", content=body, headers=TEXT), status)


def test_limits_of_lists(client: TestClient) -> None:
    for histories in ([["a"]] * (schema.MOST_HISTORIES + 1), [["a"] * (schema.LONGEST_HISTORY + 1)], [["a" * 1001]]):
        refused(client.post("/v1/recommend", json={"histories": histories}), 422)
    assert client.post("/v1/recommend", json={"histories": [["item-001"] * schema.LONGEST_HISTORY]}).status_code == 200
    assert client.post("/v1/recommend", json={"histories": [[]] * schema.MOST_HISTORIES}).status_code == 200


def test_large_bodies(start: Callable[..., TestClient]) -> None:
    client = start(max_body_kb=1)
    line = refused(client.post("/v1/recommend", json={"histories": [["a" * 900, "b" * 900]]}), 413)
    assert line == "the request is too large: at most 1 KB are taken"
    # whatever the headers say, and where they say nothing
    refused(client.post("/v1/recommend", content=(b" " * 400 for _ in range(9)), headers=TEXT), 413)
    for length in ("-1", "1e9", "9" * 30):
        refused(client.post("/v1/recommend", content=b"{}", headers={**TEXT, "content-length": length}), 413)
    assert client.post("/v1/recommend", json=KNOWN).status_code == 200
    assert 'rearec_rejected_total{reason="too_large"} 5.0' in client.get("/metrics").text


def test_keys(tmp_path: Path, start: Callable[..., TestClient]) -> None:
    path = tmp_path / "keys"
    path.write_text("first\n\nsecönd\n", "utf-8")
    client = start(api_key_file=str(path))
    wrong: list[dict[str, Any]] = [
        {},
        {"authorization": "Bearer firs"},
        {"authorization": "Bearer first second"},
        {"authorization": "Basic first"},
        {"authorization": "Bearer "},
        {"x-api-key": ""},
    ]
    for headers in wrong:
        for path_of in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            assert "no valid key" in refused(client.get(path_of, headers=headers), 401)
        refused(client.post("/v1/reload", json={}, headers=headers), 401)
    right = [{"authorization": "Bearer first"}, {"authorization": "bearer first"}, {"x-api-key": "secönd".encode()}]
    for headers in right:
        assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_other_origins_have_to_be_named(client: TestClient, start: Callable[..., TestClient]) -> None:
    asks = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in client.options("/v1/recommend", headers=asks).headers
    assert "access-control-allow-origin" not in client.post("/v1/recommend", json=KNOWN, headers=asks).headers
    shop = start(cors=("https://shop.example",))
    assert shop.options("/v1/recommend", headers=asks).headers["access-control-allow-origin"] == asks["origin"]
    refused_one = shop.options("/v1/recommend", headers={**asks, "origin": "https://other.example"})
    assert "access-control-allow-origin" not in refused_one.headers


def test_while_it_drains_new_requests_are_refused(start: Callable[..., TestClient]) -> None:
    client = start()
    client.app.state.gate.draining = True  # type: ignore[attr-defined]
    response = client.post("/v1/recommend", json=KNOWN)
    assert refused(response, 503) == "the service is shutting down" and response.headers["retry-after"] == "1"
    refused(client.get("/ready"), 503)
    assert client.get("/health").status_code == 200


def test_a_fault_of_ours_is_one_line_and_the_next_request_is_answered(
    start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from rearec.serving import app
    from rearec.serving.answering import answer_batch

    faults = [RuntimeError("secret\nof ours")]

    def fails_once(group: Any, requests: list[Any]) -> Any:
        if faults:
            raise faults.pop()
        return answer_batch(group, requests)

    monkeypatch.setattr(app, "answer_batch", fails_once)
    client = start()
    assert refused(client.post("/v1/recommend", json=KNOWN), 500) == "internal error; the log of the service has it"
    assert "of ours" in caplog.text
    assert client.post("/v1/recommend", json=KNOWN).status_code == 200


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
IDS = st.lists(st.sampled_from(["item-001", "item-002", "new", 7, ""]), max_size=5)
FIELDS = {
    "histories": st.lists(IDS, max_size=4),
    "k": st.integers(-1, 60),
    "exclude_seen": st.booleans() | st.none(),
    "allow": IDS | st.lists(IDS, max_size=4),
    "deny": IDS | st.lists(IDS, max_size=4),
    "steps": st.integers(-1, 4),
    "explain": st.booleans(),
    "model": st.sampled_from([None, "small", "x"]),
    "items": IDS,
}


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """Mostly nearly right: some fields, one of which may be anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(ANYTHING)
    chosen = [draw(st.sampled_from(["histories", "items"])), *draw(st.lists(st.sampled_from(sorted(FIELDS))))]
    request = {name: draw(FIELDS[name]) for name in chosen}
    if draw(st.booleans()):
        request[draw(st.sampled_from([*chosen, "other"]))] = draw(ANYTHING)
    return request


@settings(
    max_examples=300,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(path=st.sampled_from(["recommend", "recommend", "similar", "reload"]), request=requests())
def test_no_request_is_a_fault_of_ours(path: str, request: Any, client: TestClient) -> None:
    response = client.post(f"/v1/{path}", content=json.dumps(request), headers=TEXT)
    if response.status_code != 200:
        assert response.status_code in (400, 404, 422)
        refused(response, response.status_code)
