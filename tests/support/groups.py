"""Several processes of one group, begun where torch and Lightning are imported already, that run cases together."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from patience import PATIENCE

PROGRAM = """
import importlib, json, os, pickle, sys

import lightning.pytorch, torch

import rearec.training
from rearec.distributed import joined

size, variables, cases, folder, timeout = json.load(sys.stdin)
sys.path[:0] = [os.environ["REAREC_TEST_SUPPORT"]]
module = importlib.import_module("group_cases")
children = []
for rank in range(size):
    child = os.fork()
    if child == 0:
        os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
        log = os.open(f"{folder}/{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        torch.set_num_threads(1)
        code = 1
        try:
            with joined(torch.device("cpu"), timeout):
                for number, (name, arguments) in enumerate(cases):
                    try:
                        answer = getattr(module, name)(**arguments), None
                    except Exception as error:
                        answer = None, (type(error).__name__, str(error))
                    with open(f"{folder}/{rank}.{number}.pkl", "wb") as file:
                        pickle.dump(answer, file)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(code)
    children.append(child)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


class Answer(NamedTuple):
    """What a case gave in one process: its value, or the name of its error and what that says."""

    value: Any
    error: tuple[str, str] | None


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def run_group(
    size: int, cases: list[tuple[str, dict[str, Any]]], folder: Path, *, timeout: float = 120.0
) -> tuple[list[list[Answer | None]], list[int]]:
    """Functions of support/group_cases.py in ``size`` processes, one after the other: answers[case][rank], exit codes.

    An answer is None where its process ended before it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    group = {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "REAREC_TEST_SUPPORT": str(Path(__file__).parent)}
    request = json.dumps([size, group, cases, str(folder), timeout])
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=request,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    codes = json.loads(run.stdout.splitlines()[-1])
    answers = [[_answer(folder / f"{rank}.{number}.pkl") for rank in range(size)] for number in range(len(cases))]
    return answers, codes


def log_of(folder: Path, rank: int) -> str:
    """What a process has printed."""
    return (folder / f"{rank}.log").read_text(errors="replace")


def _answer(file: Path) -> Answer | None:
    return Answer(*pickle.loads(file.read_bytes())) if file.is_file() else None
