"""Runs measuring stages in a process of its own and writes what it finds line by line, so that nothing is lost when it
dies: `python -m on_gpu.measure STAGE… --found FILE --seconds N [--dry-run]`.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

import torch

import rearec_kernels
from on_gpu.cases import Case, cases
from on_gpu.sizes import DRY, FULL
from on_gpu.timing import Clock, CpuClock, CudaClock
from rearec_kernels import available_backends, build_info, use_backend

REPOSITORY = Path(__file__).resolve().parents[2]
MOST_SECONDS = 2.0  # to spend on a case
DEVICE_LOST = 3  # exit status


def main() -> int:
    parser = argparse.ArgumentParser(prog="on_gpu.measure", description=__doc__)
    parser.add_argument("stages", nargs="+")
    parser.add_argument("--found", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    with options.found.open("w", encoding="utf-8") as out:
        return measure(options.stages, out, time.monotonic() + options.seconds, options.dry_run)


def measure(stages: list[str], out: TextIO, deadline: float, dry_run: bool) -> int:
    """Writes {"build_info"}, then {"stage", "case"} for every case and {"stage", "seconds"} at the end of a stage."""
    clock: Clock = CpuClock() if dry_run else CudaClock()
    backend = available_backends(clock.device)[0]
    if not dry_run:
        _check_what_is_measured(backend)
    _write(out, {"build_info": build_info(), "package": str(Path(rearec_kernels.__file__).parent)})
    plan = [(stage, list(cases(stage, clock, DRY if dry_run else FULL))) for stage in stages]
    left = sum(len(planned) for _, planned in plan)
    for stage, planned in plan:
        begin = time.monotonic()
        for case in planned:
            # Half of the time is for making the inputs, checking them and capturing.
            seconds = min(MOST_SECONDS, 0.5 * (deadline - time.monotonic()) / left)
            left -= 1
            _write(out, {"stage": stage, "case": {"name": case.name} | _measured(case, seconds, dry_run, backend)})
            gc.collect()
            try:
                clock.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError:  # nothing works in this process any more
                return DEVICE_LOST
        _write(out, {"stage": stage, "seconds": time.monotonic() - begin})
    return 0


def _check_what_is_measured(backend: str) -> None:
    if backend != "cuda":
        raise SystemExit(f"the CUDA kernels cannot run: {build_info()['cuda']}")
    if Path(rearec_kernels.__file__).resolve().is_relative_to(REPOSITORY):
        raise SystemExit(f"rearec_kernels is imported from its source tree {REPOSITORY}, not from an installation")


def _measured(case: Case, seconds: float, dry_run: bool, backend: str) -> dict[str, Any]:
    if seconds <= 0:
        return {"error": "no time was left"}
    try:
        # The CPU backend does not serve every dtype: in a dry run, whichever does.
        with nullcontext() if dry_run else use_backend(backend):
            return case.measure(0.0 if dry_run else seconds)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _write(out: TextIO, line: dict[str, Any]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
