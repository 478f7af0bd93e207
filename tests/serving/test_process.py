"""``rearec serve`` as a process: clients of all kinds, a reload under way, its end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import PATIENCE

from rearec import Recommender

HISTORIES = [[f"item-{(7 * n + place) % 40:03}" for place in range(1 + n % 9)] for n in range(40)]


@contextlib.contextmanager
def service(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its address."""
    command = [sys.executable, "-m", "rearec", "serve", *map(str, arguments), "--port", "0", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, json.loads(line)["address"]
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """SIGTERM; the exit code, and what it said on stderr."""
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


def close_to(answer: dict[str, Any], wanted: tuple[list[str], list[float]]) -> bool:
    items, scores = wanted
    return bool(answer["items"] == items and answer["scores"] == pytest.approx(scores, rel=1e-4, abs=1e-5))


def test_nobody_loses_an_answer_by_a_reload_or_by_the_end(run_folder: Path, tmp_path: Path) -> None:
    """Clients ask all the time; in the middle the weights change, and then SIGTERM comes."""
    from safetensors.torch import load_file, save_file

    run = tmp_path / "shop"
    shutil.copytree(run_folder, run)
    right = {"old": answers_of(run)}
    weights = load_file(run / "model.safetensors")
    save_file({name: value * 1.25 for name, value in weights.items()}, tmp_path / "new")
    versions: dict[str, str] = {}
    wrong: list[Any] = []
    answered: dict[str, int] = {}
    stop = False

    def client(number: int) -> int:
        """Asks until the service is gone; counts what it got."""
        count = 0
        with httpx.Client(base_url=address, timeout=PATIENCE) as http:
            while not stop:
                row = (number * 17 + count) % len(HISTORIES)
                try:
                    response = http.post("/v1/recommend", json={"histories": [HISTORIES[row]], "k": 5})
                except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                    if not ending:
                        wrong.append(error)
                    return count
                if response.status_code == 503 and ending:
                    return count
                body = response.json()
                age = versions.get(body.get("version", ""), "?")
                if response.status_code != 200 or not close_to(body["answers"][0], right[age][row]):
                    wrong.append(body)
                answered[age] = answered.get(age, 0) + 1
                count += 1
        return count

    ending = False
    with service(run) as (process, address), ThreadPoolExecutor(8) as pool:
        versions[httpx.get(f"{address}/v1/models").json()["models"][0]["version"]] = "old"
        clients = [pool.submit(client, number) for number in range(8)]
        wait_for(lambda: answered.get("old", 0) > 50)
        (tmp_path / "new").replace(run / "model.safetensors")
        right["new"] = answers_of(run)
        from rearec.run_folder import RunFolder

        versions[RunFolder(run).weights_digest()] = "new"
        assert httpx.post(f"{address}/v1/reload", json={}, timeout=PATIENCE).json()["changed"]
        wait_for(lambda: answered.get("new", 0) > 50)
        assert not wrong
        page = httpx.get(f"{address}/metrics").text
        ending = True
        code, err = end(process)
        stop = True
        counts = [each.result(PATIENCE) for each in clients]
    assert (code, err) == (0, "")
    assert not wrong and sum(counts) == sum(answered.values()) and min(counts) > 0
    assert 'rearec_reloads_total{model="shop",outcome="loaded"} 1.0' in page


def answers_of(run: Path) -> list[tuple[list[str], list[float]]]:
    return [(answer.items, answer.scores) for answer in Recommender(run).recommend(HISTORIES, 5)]


def wait_for(happened: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_slow_and_broken_clients_hold_nothing(run_folder: Path) -> None:
    body = json.dumps({"histories": [["item-001"]]}).encode()
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    with service(run_folder, "--read-timeout", "3") as (process, address):
        host, _, port = address.removeprefix("http://").partition(":")
        place = (host, int(port))

        def connect(sent: bytes) -> socket.socket:
            sock = socket.create_connection(place, timeout=60)
            sock.sendall(sent)
            return sock

        whole = head % len(body) + b"\r\n" + body
        slow_head, slow_body = connect(head % len(body)), connect((head % len(body)) + b"\r\n" + body[:5])
        silent, second_head = connect(b""), connect(whole)
        first = b""
        while not first.endswith(b"}"):  # head and body may come one after the other
            first += second_head.recv(1 << 16)
        assert first.startswith(b"HTTP/1.1 200")
        second_head.sendall(head[:20])
        for _ in range(20):  # gone in the middle, or before the answer
            connect(head % len(body)).close()
            connect(whole).close()
        nonsense = connect(b"\x16\x03\x01 no http\r\n\r\n")
        assert httpx.post(
            f"{address}/v1/recommend", content=body, headers={"content-type": "application/json"}
        ).is_success
        assert nonsense.recv(1 << 16).startswith(b"HTTP/1.1 400")
        answer = b"".join(iter(lambda: slow_body.recv(1 << 16), b""))
        assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive within 3 seconds" in answer
        for sock in (slow_head, silent, second_head):
            assert sock.recv(1 << 16) == b""  # ended by the service
            sock.close()
        slow_body.close()
        nonsense.close()
        page = httpx.get(f"{address}/metrics").text
        assert 'rearec_rejected_total{reason="too_slow"}' in page
        held = connect(head % len(body))  # a client that is slow when the end comes
        assert end(process)[0] == 0
        held.close()


def test_what_keeps_it_from_starting_is_one_line(run_folder: Path, call_rearec: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, message in (
            ((run_folder, "--port", port), f"127.0.0.1:{port}: Address already in use; --port names another port"),
            ((run_folder, "--port", 99_999), "--port must be at most 65535, got 99999"),
            ((run_folder, "--host", "no.such.host.invalid"), "no.such.host.invalid:8000: "),
            ((tmp_path / "nowhere", "--port", "0"), "nowhere: no such folder"),
            ((run_folder, run_folder, "--port", "0"), "two models would have the name 'run'"),
            ((run_folder, "--port", "0", "--api-key-file", tmp_path / "keys"), "keys: cannot be read"),
            ((run_folder, "--watch", "0"), "--watch must be at least 0.01"),
        ):
            result = call_rearec("serve", *arguments)
            assert result.returncode == 2 and result.stdout == ""
            assert result.stderr.startswith("error: ") and message in result.stderr
            assert result.stderr.count("\n") == 1, result.stderr


def test_without_the_extra_it_says_what_to_install(
    run_folder: Path, call_rearec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "httptools" else find(name))
    result = call_rearec("serve", run_folder)
    assert result.returncode == 2
    assert (
        result.stderr == "error: serve needs httptools, which the extra serve installs: pip install 'rearec[serve]'\n"
    )


def test_who_does_not_read_his_answers_is_left(run_folder: Path) -> None:
    body = json.dumps({"histories": [[]] * 256, "k": 1000}).encode()
    head = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    count = 60
    with service(run_folder, "--read-timeout", "0.5") as (process, address):
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(PATIENCE)
            sock.connect((host, int(port)))
            sock.sendall(count * (head % len(body) + body))  # more than buffers between the two hold
            wait_for(lambda: gone(address))
            got = 0
            with contextlib.suppress(ConnectionResetError):
                while data := sock.recv(1 << 16):
                    got += data.count(b"HTTP/1.1 200")
        assert got < count
        assert end(process) == (0, "")


def gone(address: str) -> bool:
    """Whether the service has no connection left."""
    port = int(address.rpartition(":")[2])
    lines = Path("/proc/net/tcp").read_text("utf-8").splitlines()[1:]
    states = [line.split()[3] for line in lines if line.split()[1].endswith(f":{port:04X}")]
    return states.count("01") == 0  # ESTABLISHED
