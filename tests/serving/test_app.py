"""The routes: they answer as `Recommender` does, whoever else asks at the same time."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rearec import Recommender
from rearec.errors import UserError
from rearec.inference import Recommendation
from rearec.serving import ServedModels, ServeOptions, make_app
from rearec.serving.models import named_runs
from rearec.serving.schema import RecommendRequest, RecommendResponse, SimilarResponse

HISTORIES = [["item-001", "item-010"], [], ["item-007"], ["nobody"], [f"item-{n:03}" for n in range(20)]]


def same(got: dict[str, Any], wanted: Recommendation) -> bool:
    """Whether an answer is that of `Recommender`; passes of other batches round otherwise."""
    return (
        (got["items"], got["unknown"], got["source"]) == (wanted.items, wanted.unknown, wanted.source)
        and (got["titles"], got["prior"]) == (wanted.titles, wanted.prior)
        and got["scores"] == pytest.approx(wanted.scores, rel=1e-4, abs=1e-5)
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "exclude_seen": True},
        {"k": 1000, "steps": 0},
        {"allow": ["item-002", "item-003", "item-001"], "k": 2},
        {"deny": [["item-002"], [], ["item-003"], [], ["item-001", "item-030"]]},
    ],
    ids=json.dumps,
)
def test_recommend(options: dict[str, Any], client: TestClient, recommender: Recommender) -> None:
    response = client.post("/v1/recommend", json={"histories": HISTORIES, **options})
    assert response.status_code == 200, response.text
    answer = response.json()
    RecommendResponse.model_validate(answer)
    assert answer["model"] == "small" and answer["skipped"] == {} and answer["explanations"] is None
    wanted = recommender.recommend(HISTORIES, **options)
    assert all(same(got, each) for got, each in zip(answer["answers"], wanted, strict=True))


def test_seen_items_are_left_out_as_the_run_was_trained(
    run_folder: Path, tmp_path: Path, start: Callable[..., TestClient]
) -> None:
    copy = tmp_path / "other"
    shutil.copytree(run_folder, copy)
    path = copy / "options.json"
    options = json.loads(path.read_text("utf-8"))
    options["training"]["exclude_seen"] = True
    path.write_text(json.dumps(options), "utf-8")
    client = start({"kept": run_folder, "excluded": copy})
    asked = {"histories": [["item-001"]], "k": 1000}
    items = {
        name: client.post("/v1/recommend", json={**asked, "model": name}).json()["answers"][0]["items"]
        for name in ("kept", "excluded")
    }
    assert "item-001" in items["kept"] and "item-001" not in items["excluded"]
    assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["kept", "excluded"]
    forced = client.post("/v1/recommend", json={**asked, "model": "excluded", "exclude_seen": False}).json()
    assert "item-001" in forced["answers"][0]["items"] and forced["model"] == "excluded"


def test_ids_may_be_integers_and_unknown_ones_of_filters_are_told(client: TestClient) -> None:
    asked = {"histories": [[5, "item-001"]], "deny": ["item-002", 77, "x"]}
    answer = client.post("/v1/recommend", json=asked).json()
    assert answer["answers"][0]["unknown"] == ["5"]
    assert answer["skipped"] == {"deny": ["77", "x"]}


def test_explanations(client: TestClient, recommender: Recommender) -> None:
    asked = {"histories": [["item-001", "item-010"], []], "k": 2, "explain": True}
    answer = client.post("/v1/recommend", json=asked).json()
    RecommendResponse.model_validate(answer)
    why, nothing = answer["explanations"]
    assert nothing is None
    wanted = recommender.explain(["item-001", "item-010"], 2)
    assert why["item"] == answer["answers"][0]["items"][0] == wanted.item
    assert [step["items"] for step in why["steps"]] == [step.items for step in wanted.steps]
    for wrong in ({"steps": 1}, {"histories": [["item-001"]] * 5}):
        refused = client.post("/v1/recommend", json={**asked, **wrong})
        assert refused.status_code == 422 and refused.json()["error"].startswith("explain: ")


def test_similar_and_items(client: TestClient, recommender: Recommender) -> None:
    answer = client.post("/v1/similar", json={"items": ["item-001", "item-004"], "k": 3}).json()
    SimilarResponse.model_validate(answer)
    wanted = recommender.similar(["item-001", "item-004"], 3)
    assert [got["items"] for got in answer["answers"]] == [each.items for each in wanted]
    refused = client.post("/v1/similar", json={"items": ["item-001", "nobody"]})
    assert refused.status_code == 422 and refused.json() == {"error": "items: 'nobody' is not in the catalogue"}
    found = client.get("/v1/items/item-001", params={"model": "small"})
    popularity = recommender.item("item-001").popularity
    assert found.json() == {"item": "item-001", "title": None, "popularity": popularity}


@pytest.mark.parametrize("item", ["nobody", "../catalog.json", "a/b", "%00", "<script>", "é" * 50])
def test_ids_are_data(item: str, client: TestClient) -> None:
    response = client.get(f"/v1/items/{item}")
    assert response.status_code == 404 and response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"] and "\n" not in response.json()["error"]


def test_many_at_once_share_passes_and_each_gets_its_own(
    start: Callable[..., TestClient], recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests of all kinds that wait while the engine is held are answered in as many passes as there are kinds."""
    from rearec.serving import app
    from rearec.serving.answering import answer_batch

    go, began = threading.Event(), threading.Event()
    calls: list[int] = []

    def held(group: Any, requests: list[Any]) -> Any:
        calls.append(len(requests))
        began.set()
        assert go.wait(60)
        return answer_batch(group, requests)

    monkeypatch.setattr(app, "answer_batch", held)
    client = start()
    count = 24
    options = [{}, {"k": 3}, {"exclude_seen": True}, {"deny": ["item-002"]}, {"steps": 0}, {"steps": 9}, {"allow": []}]
    asked = [{"histories": [[f"item-{n:03}"]], **options[n % len(options)]} for n in range(count)]
    with ThreadPoolExecutor(count + 2) as pool:
        first = pool.submit(client.post, "/v1/recommend", json={"histories": [["item-001"]]})
        assert began.wait(60)
        others = [pool.submit(client.post, "/v1/recommend", json=each) for each in asked]
        alike = pool.submit(client.post, "/v1/similar", json={"items": ["item-003"]})
        queue = "rearec_queue_histories {}.0".format
        while queue(count + 1) not in client.get("/metrics").text:
            pass
        go.set()
        assert first.result().status_code == alike.result().status_code == 200
        responses = [each.result() for each in others]
    assert sorted(calls) == [1, 1, count]
    for request, response in zip(asked, responses, strict=True):
        if request.get("steps") == 9:
            assert response.json() == {"error": "steps: got 9, expected 0..2 (trained steps)"}
        elif "allow" in request:
            assert response.status_code == 422 and response.json()["error"].startswith("allow: is empty")
        else:
            (answer,) = recommender.recommend(**{"k": 10, **request})
            assert same(response.json()["answers"][0], answer)
    page = client.get("/metrics").text
    assert queue(0) in page and "rearec_batch_requests_count 3.0" in page
    assert f"rearec_batch_histories_sum {count + 2}.0" in page
    right = sum("allow" not in request and request.get("steps") != 9 for request in asked)
    assert f'rearec_answers_total{{model="small",source="model"}} {right + 1}.0' in page
    assert f'rearec_request_seconds_count{{route="/v1/recommend",status="200"}} {right + 1}.0' in page


def test_a_full_queue_is_503(start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    from rearec.serving import app
    from rearec.serving.answering import answer_batch

    go, began = threading.Event(), threading.Event()

    def held(group: Any, requests: list[Any]) -> Any:
        began.set()
        assert go.wait(60)
        return answer_batch(group, requests)

    monkeypatch.setattr(app, "answer_batch", held)
    client = start(max_queue=2)
    asked = {"histories": [["item-001"]]}
    with ThreadPoolExecutor(3) as pool:
        taken = [pool.submit(client.post, "/v1/recommend", json=asked)]
        assert began.wait(60)
        taken += [pool.submit(client.post, "/v1/recommend", json=asked) for _ in range(2)]
        while "rearec_queue_histories 2.0" not in client.get("/metrics").text:
            pass
        refused = client.post("/v1/recommend", json=asked)
        go.set()
        assert [each.result().status_code for each in taken] == [200] * 3
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert refused.json() == {"error": "too many requests are waiting; try again later"}
    assert 'rearec_rejected_total{reason="queue_full"} 1.0' in client.get("/metrics").text


def test_reload(run_folder: Path, tmp_path: Path, start: Callable[..., TestClient]) -> None:
    copy = tmp_path / "shop"
    shutil.copytree(run_folder, copy)
    client = start({"shop": copy})
    (before,) = client.get("/v1/models").json()["models"]
    again = client.post("/v1/reload", json={}).json()
    assert again == {"model": "shop", "version": before["version"], "changed": False}

    change_weights(copy)
    changed = client.post("/v1/reload", json={"model": "shop"}).json()
    assert changed["changed"] and changed["version"] != before["version"]
    answer = client.post("/v1/recommend", json={"histories": HISTORIES}).json()
    assert answer["version"] == changed["version"]
    wanted = Recommender(copy).recommend(HISTORIES)
    assert all(same(got, each) for got, each in zip(answer["answers"], wanted, strict=True))

    (copy / "model.safetensors").write_bytes(b"no weights")
    failed = client.post("/v1/reload", json={"model": "shop"})
    assert failed.status_code == 409 and "\n" not in failed.json()["error"]
    assert client.post("/v1/recommend", json={"histories": HISTORIES}).json() == answer
    assert client.post("/v1/reload", json={"model": "/etc"}).status_code == 404
    page = client.get("/metrics").text
    assert 'rearec_reloads_total{model="shop",outcome="loaded"} 2.0' in page
    assert 'rearec_reloads_total{model="shop",outcome="failed"} 1.0' in page


def test_watch(run_folder: Path, tmp_path: Path, start: Callable[..., TestClient]) -> None:
    copy = tmp_path / "shop"
    shutil.copytree(run_folder, copy)
    client = start({"shop": copy}, watch=0.05)
    versions = [client.get("/v1/models").json()["models"][0]["version"]]
    change_weights(copy)
    finished = threading.Event()
    deadline = threading.Timer(60, finished.set)
    deadline.start()
    while client.get("/v1/models").json()["models"][0]["version"] == versions[0]:
        assert not finished.is_set(), "the new weights were not found"
    deadline.cancel()


def change_weights(run: Path) -> None:
    """As a new training would: the files are replaced, not written into."""
    from safetensors.torch import load_file, save_file

    weights = load_file(run / "model.safetensors")
    save_file({name: value * 1.25 for name, value in weights.items()}, run / "new")
    (run / "new").replace(run / "model.safetensors")


def test_the_openapi_page_says_it_all(client: TestClient) -> None:
    page = client.get("/openapi.json").json()
    routes = {f"{method.upper()} {path}" for path, methods in page["paths"].items() for method in methods}
    assert routes == {
        *("POST /v1/recommend", "POST /v1/similar", "POST /v1/reload"),
        *("POST /v1/sessions/{user}/events", "POST /v1/sessions/{user}/recommend", "DELETE /v1/sessions/{user}"),
        *("GET /v1/items/{item}", "GET /v1/models", "GET /health", "GET /ready", "GET /metrics"),
    }
    schemas = page["components"]["schemas"]
    assert {*RecommendRequest.model_fields} == {*schemas["RecommendRequest"]["properties"]}
    assert {"items", "scores", "titles", "source", "unknown"} <= {*schemas["Recommendation"]["properties"]}
    posts = {path: methods["post"] for path, methods in page["paths"].items() if "post" in methods}
    for path, post in posts.items():  # events come before what is asked of them
        name = post["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for example in schemas[name]["examples"]:
            known = json.loads(json.dumps(example).replace("1213", "item-001").replace('"run"', '"small"'))
            assert client.post(path.replace("{user}", "ida"), json=known).status_code == 200, name
    described = page["paths"]["/v1/recommend"]["post"]["responses"]
    assert {"200", "401", "413", "422", "503"} <= {*described}
    assert RecommendResponse.model_validate(schemas["RecommendResponse"]["examples"][0])


def test_the_service_says_that_it_lives(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json() == {"status": "ready"}
    assert client.get("/docs").status_code == 404  # its page would take scripts from elsewhere


def test_names_of_runs(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_runs([str(run_folder), f"b={run_folder}"]) == {"run": str(run_folder), "b": str(run_folder)}
    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path / "a=b")
    assert named_runs([".", "../a=b/x"]) == {"a=b": ".", "../a": "b/x"}
    for wrong, message in (
        (["a/run", "b/run"], "two models would have the name 'run'; say NAME=b/run"),
        (["=x"], "=x: expected a RUN or NAME=RUN"),
        (["x="], "x=: expected a RUN or NAME=RUN"),
    ):
        with pytest.raises(UserError, match=message):
            named_runs(wrong)
    with pytest.raises(UserError, match="no RUN was given"):
        ServedModels({})


def test_wrong_options_are_refused(run_folder: Path, tmp_path: Path) -> None:
    for wrong, message in (({"max_batch": 0}, "--max-batch must be at least 1"), ({"watch": 0.0}, "--watch must be")):
        with pytest.raises(UserError, match=message):
            ServeOptions(**wrong)
    models = ServedModels({"small": run_folder})
    (tmp_path / "keys").write_text("\n \n", "utf-8")
    for path, message in ((tmp_path / "none", "cannot be read"), (tmp_path / "keys", "holds no key")):
        with pytest.raises(UserError, match=message):
            make_app(models, ServeOptions(api_key_file=str(path)))
