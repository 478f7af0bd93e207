"""`rearec serve` beside a plain FastAPI endpoint, each a process, asked by clients in a process of their own.

22,933 items, d 256, K 2, histories of 50 items, top 10. Both use as many threads as torch chooses.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measure.compare import Target, compare

from rearec import Recommender
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog

HERE = Path(__file__).parent
ITEMS, LENGTH, TOP = 22_933, 50, 10
BODIES = 400
LATENCY = 0.05  # seconds within which 99 of 100 answers have to come
PROBE = 4.0  # seconds of load at one rate
HALVINGS = 4
PLAIN = "plain FastAPI"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, as a folder that was published."""
    folder = tmp_path_factory.mktemp("serving") / "run"
    torch.manual_seed(0)
    model = ReaRec(ReaRecConfig(ITEMS, method="prl", steps=2, alpha=1.5)).eval()
    model.save_pretrained(folder)
    catalog = Catalog([f"item-{number}" for number in range(ITEMS)], [1] * ITEMS)
    (folder / "catalog.json").write_text(json.dumps(asdict(catalog)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bodies(run: Path) -> Path:
    """Requests, one per line."""
    drawn = np.random.default_rng(0).integers(0, ITEMS, (BODIES, LENGTH))
    path = run.parent / "bodies.jsonl"
    lines = [json.dumps({"histories": [[f"item-{item}" for item in row]], "k": TOP}) for row in drawn.tolist()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@contextmanager
def service(*command: object) -> Iterator[str]:
    """The address of a service in a process of its own."""
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.terminate()
        process.wait()


def ours(run: Path) -> Any:
    return service("-m", "rearec", "serve", run, "--port", 0, "--json")


def plain(run: Path) -> Any:
    return service(HERE / "contenders" / "plain_service.py", run)


def keeps_up(address: str, bodies: Path, rate: float) -> bool:
    """Whether a service answers so many requests per second in time, and all of them."""
    command = [sys.executable, HERE / "serving_load.py", address, bodies, "--rate", f"{rate}", "--seconds", f"{PROBE}"]
    out = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    return not found["failed"] and found["p99"] <= LATENCY


def seconds_per_request(address: str, bodies: Path) -> Callable[[], float]:
    """One over the highest rate that it keeps up with, found by doubling and halving."""

    def search() -> float:
        low, high = 0.0, 8.0
        while keeps_up(address, bodies, high):
            low, high = high, 2 * high
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if keeps_up(address, bodies, middle) else (low, middle)
        assert low, f"{address} does not even answer {high:g} requests per second in time"
        return 1 / low

    return search


def test_requests_in_time(run: Path, bodies: Path, report: Any) -> None:
    with ours(run) as mine, plain(run) as other:
        contenders = {"ours": seconds_per_request(mine, bodies), PLAIN: seconds_per_request(other, bodies)}
        comparison = compare(
            f"seconds per request at p99 within {1e3 * LATENCY:g} ms, N {ITEMS}, d 256, K 2, histories of {LENGTH}",
            contenders,
            targets=[Target(PLAIN, 3, 6)],
            facts={"requests_per_second": {}},
            seconds=0,
            least_runs=3,
            time_call=lambda call: call(),
            memory_of=None,
        )
    comparison.facts["requests_per_second"] = {who: 1 / comparison.median(who) for who in comparison.times}
    report(comparison)


def test_what_http_adds_to_one_answer(run: Path, bodies: Path, report: Any) -> None:
    """One client that waits for each answer, beside the same in this process; at most 3 ms more, better 1.5."""
    recommender = Recommender(run)
    requests = bodies.read_text(encoding="utf-8").splitlines()
    histories = [json.loads(line)["histories"] for line in requests]
    turn = {"http": 0, "here": 0}
    with ours(run) as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"))

        def by_http() -> Any:
            turn["http"] += 1
            body = requests[turn["http"] % BODIES]
            connection.request("POST", "/v1/recommend", body, {"content-type": "application/json"})
            return json.loads(connection.getresponse().read())["answers"]

        def here() -> Any:
            turn["here"] += 1
            return recommender.recommend(histories[turn["here"] % BODIES], TOP)

        comparison = compare(
            f"one client, N {ITEMS}, d 256, K 2, histories of {LENGTH}",
            {"ours": by_http, "Recommender in process": here},
            seconds=20,
            least_runs=100,
            memory_of=None,
        )
        connection.close()
    added = comparison.median("ours") - comparison.median("Recommender in process")
    comparison.facts["added_ms"] = 1e3 * added
    report(comparison)
