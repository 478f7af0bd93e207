"""Sessions of the service answer as the whole history does, within their memory, and survive what they are to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rearec import Recommender
from rearec.serving import ServedModels
from rearec.serving.sessions import MOST_EVENTS, KeepingError, Sessions, UnknownSessionError

EVENTS = [f"item-{number:03}" for number in (1, 10, 7, 3, 20, 5)]


@pytest.fixture
def model(run_folder: Path) -> Any:
    return ServedModels({"small": run_folder}).get(None)


def asked(client: TestClient, user: str, **options: Any) -> dict[str, Any]:
    response = client.post(f"/v1/sessions/{user}/recommend", json=options)
    assert response.status_code == 200, response.text
    return response.json()


def test_answers_are_those_of_the_history(client: TestClient, recommender: Recommender) -> None:
    for count, event in enumerate([*EVENTS, "nobody knows"], start=1):
        response = client.post("/v1/sessions/anna/events", json={"items": [event]})
        assert response.status_code == 200, response.text
        assert (response.json()["events"], response.json()["user"]) == (count, "anna")
        history = [*EVENTS, "nobody knows"][:count]
        for options in ({"k": 5}, {"k": 3, "exclude_seen": True, "deny": ["item-002"], "steps": 0}):
            answer = asked(client, "anna", **options)["answer"]
            (wanted,) = recommender.recommend([history], **options)
            assert (answer["items"], answer["unknown"]) == (wanted.items, wanted.unknown)
            assert answer["scores"] == pytest.approx(wanted.scores, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("user", ["a/b", "..%2F..%2Fetc%2Fpasswd", "%00", "ü <script>", "x" * 1000])
def test_any_name_of_a_user_is_only_data(user: str, start: Callable[..., TestClient], tmp_path: Path) -> None:
    client = start(session_dir=str(tmp_path / "sessions"))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    response = client.post(f"/v1/sessions/{user}/events", json={"items": EVENTS[:2]})
    assert response.status_code == 200, response.text
    (file,) = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert file.parent == tmp_path / "sessions" and len(file.stem) == 64
    assert asked(client, user, k=2)["answer"]["source"] == "model"
    assert client.delete(f"/v1/sessions/{user}").status_code == 204
    assert not file.exists()
    assert client.delete(f"/v1/sessions/{user}").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 422), ({"items": []}, 422), ({"items": ["a"], "model": "none"}, 404), ({"items": [None]}, 422)],
)
def test_wrong_events_are_one_line(client: TestClient, body: dict[str, Any], status: int) -> None:
    response = client.post("/v1/sessions/berta/events", json=body)
    assert response.status_code == status and len(response.json()["error"].splitlines()) == 1
    response = client.post("/v1/sessions/berta/recommend", json={})
    assert (response.status_code, response.json()) == (
        404, {"error": "session: there are no events of the user 'berta'"},
    )  # fmt: skip


def test_a_restart_knows_the_events_and_a_reload_the_session(
    run_folder: Path, tmp_path: Path, start: Callable[..., TestClient], recommender: Recommender
) -> None:
    folder = str(tmp_path / "sessions")
    first = start(session_dir=folder)
    for event in EVENTS[:3]:
        assert first.post("/v1/sessions/carla/events", json={"items": [event]}).status_code == 200
    wanted = recommender.recommend([EVENTS[:3]], k=4)[0].items
    second = start(session_dir=folder)
    assert asked(second, "carla", k=4)["answer"]["items"] == wanted
    assert second.post("/v1/reload", json={}).status_code == 200
    assert asked(second, "carla", k=4)["answer"]["items"] == wanted
    forgetful = start()
    assert forgetful.post("/v1/sessions/carla/recommend", json={}).status_code == 404


def test_metrics_say_what_was_encoded(start: Callable[..., TestClient]) -> None:
    client = start()
    for event in EVENTS:
        client.post("/v1/sessions/dora/events", json={"items": [event]})
    asked(client, "dora")
    page = client.get("/metrics").text
    assert "rearec_sessions 1.0" in page
    assert 'rearec_request_seconds_count{route="/v1/sessions/{user}/events",status="200"} 6.0' in page
    for kind, count in (("events", 6), ("encoded", 6), ("encoded_anew", 0), ("evicted", 0)):
        assert f'rearec_session_work{{kind="{kind}"}} {float(count)}' in page


def test_sessions_stay_within_their_memory(model: Any) -> None:
    one = Sessions(memory=1 << 40, ttl=60)
    of_one = one.extend(model, "x", EVENTS).nbytes
    sessions = Sessions(memory=3 * (of_one + 1000), ttl=60)
    for number in range(10):
        sessions.extend(model, f"user {number}", EVENTS)
        sessions.get(model, "user 0")
    assert len(sessions) == 3 and sessions.counts["evicted"] == 7 and sessions.nbytes <= 3 * (of_one + 1000)
    sessions.get(model, "user 0"), sessions.get(model, "user 9")
    with pytest.raises(UnknownSessionError, match="there are no events of the user 'user 5'"):
        sessions.get(model, "user 5")


def test_a_session_is_forgotten_after_its_time(model: Any, tmp_path: Path) -> None:
    now = [0.0]
    sessions = Sessions(memory=1 << 30, ttl=10, folder=tmp_path, clock=lambda: now[0])
    sessions.extend(model, "emil", EVENTS)
    now[0] = 9
    sessions.get(model, "emil")
    now[0] = 18
    assert sessions.get(model, "emil").history == EVENTS
    (file,) = tmp_path.iterdir()
    os.utime(file, (time.time() - 11, time.time() - 11))
    now[0] = 40
    with pytest.raises(UnknownSessionError):
        sessions.get(model, "emil")
    assert not file.exists() and (len(sessions), sessions.nbytes) == (0, 0)
    sessions.extend(model, "emil", EVENTS)
    os.utime(file, (time.time() - 11, time.time() - 11))
    Sessions(memory=1 << 30, ttl=10, folder=tmp_path)
    assert not file.exists()


def test_a_line_that_was_cut_off_is_left_out(model: Any, tmp_path: Path) -> None:
    Sessions(memory=1 << 30, ttl=60, folder=tmp_path).extend(model, "fritz", EVENTS)
    (file,) = tmp_path.iterdir()
    with file.open("a") as there:
        there.write('["item-00')
    assert Sessions(memory=1 << 30, ttl=60, folder=tmp_path).get(model, "fritz").history == EVENTS


def test_a_long_history_loses_its_older_half(model: Any, tmp_path: Path) -> None:
    sessions = Sessions(memory=1 << 30, ttl=60, folder=tmp_path)
    events = [EVENTS[number % 6] for number in range(MOST_EVENTS)]
    sessions.extend(model, "gerd", events)
    session = sessions.extend(model, "gerd", ["item-002"])
    assert session.history == [*events[-MOST_EVENTS // 2 + 1 :], "item-002"]
    assert Sessions(memory=1 << 30, ttl=60, folder=tmp_path).get(model, "gerd").history == session.history


def test_what_the_disk_does_not_take_was_not_added(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(memory=1 << 30, ttl=60, folder=tmp_path)
    sessions.extend(model, "hans", EVENTS[:2])
    monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(KeepingError, match="session: its events cannot be kept now: No space left on device"):
        sessions.extend(model, "hans", EVENTS[2:])
    monkeypatch.undo()
    assert sessions.get(model, "hans").history == EVENTS[:2]
