"""A program run by several processes of one group at a time, which begin where torch is imported already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from patience import PATIENCE

PROGRAM = """
import importlib, json, os, sys, traceback
import torch

module, world, folder, path = json.load(sys.stdin)
sys.path[:0] = path
run = importlib.import_module(module).run
children = []
for rank in range(world):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            store = torch.distributed.FileStore(f"{folder}/store", world)
            torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
            torch.save(run(), f"{folder}/{rank}.pt")
            torch.distributed.destroy_process_group()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(max(map(abs, codes)))
"""


def run_ranks(module: str, world: int, folder: Path) -> list[Any]:
    """What `run()` of a module of tests/support returns on each rank of a group of so many processes, with gloo."""
    path = [x for x in sys.path if x]
    request = json.dumps([module, world, str(folder), path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=request,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]
