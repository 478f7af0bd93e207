"""Short processes that begin where torch is imported already, which is most of what each would take by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from patience import PATIENCE

PROGRAM = """
import json, os, sys
import torch

code, folder, each = json.load(sys.stdin)
for number, variables in enumerate(each):
    child = os.fork()
    if child == 0:
        for descriptor, name in (1, "stdout"), (2, "stderr"):
            os.dup2(os.open(f"{folder}/{number}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
        os.environ.update(variables)
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_each(code: str, each: Sequence[Mapping[str, str]]) -> list[subprocess.CompletedProcess[str]]:
    """`python -c code` under each of these environment variables, which torch must not read when it is imported."""
    with tempfile.TemporaryDirectory() as folder:
        request = json.dumps([code, folder, each])
        parent = subprocess.run(
            [sys.executable, "-c", PROGRAM], input=request, capture_output=True, text=True, timeout=PATIENCE, check=True
        )
        codes = [int(line) for line in parent.stdout.split()]
        assert len(codes) == len(each)
        texts = [[Path(folder, f"{i}.{name}").read_text() for name in ("stdout", "stderr")] for i in range(len(each))]
    return [subprocess.CompletedProcess([], code, *text) for code, text in zip(codes, texts, strict=True)]
