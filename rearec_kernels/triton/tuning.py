"""Which of a kernel's configs is used: the fastest, measured once per device and kind of problem and kept on disk.

REAREC_TRITON_AUTOTUNE=0 takes the first that fits instead, so that results do not depend on a measurement. The choices
lie beside Triton's own cache; delete the folder `rearec` there to measure again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton

from rearec_kernels.environment import is_on
from rearec_kernels.triton.launch import Config, architecture

OutOfResources = triton.runtime.errors.OutOfResources
_chosen: dict[tuple[object, ...], int] = {}


def run_best(
    kernel: str,
    problem: Sequence[Any],
    candidates: Sequence[Config],
    device: torch.device,
    run: Callable[[Config], Any],
) -> Any:
    """run(config) with the fastest of the candidates, or the first that fits where nothing can be measured.

    Args:
        kernel: its name.
        problem: what the choice depends on, e.g. dtype, width and the sizes by order of magnitude.
        candidates: the preferred one first, one that fits everywhere last.
        run: called once with the config that is used, and before that with each one when they are compared.
    """
    if not _is_tuned(candidates, device):
        return _first_that_fits(candidates, run)
    key = kernel, device, *problem, *candidates
    chosen = _chosen.get(key)
    if chosen is None:
        text = json.dumps([kernel, _device_name(device), triton.__version__, *map(str, problem), *map(str, candidates)])
        chosen = _read(text, len(candidates))
        if chosen < 0:
            if torch.cuda.is_current_stream_capturing():  # nothing can be timed now
                return _first_that_fits(candidates, run)
            chosen = _measure(candidates, run)
            _write(text, chosen)
        _chosen[key] = chosen
    return run(candidates[chosen])


def magnitude(count: int) -> int:
    """Problems of one power of 4 are of one kind."""
    return (max(count, 1).bit_length() + 1) // 2


def _is_tuned(candidates: Sequence[Config], device: torch.device) -> bool:
    if len(candidates) < 2 or device.type != "cuda" or not is_on("REAREC_TRITON_AUTOTUNE"):
        return False
    # Triton 3.6 makes empty kernels of some configs for 10.0, and nothing is faster; the preferred ones are checked.
    return architecture(device) < 100


def _first_that_fits(candidates: Sequence[Config], run: Callable[[Config], Any]) -> Any:
    """A config that needs more shared memory than the device has fails before anything is launched."""
    for chosen in candidates[:-1]:
        try:
            return run(chosen)
        except OutOfResources:
            continue
    return run(candidates[-1])


def _measure(candidates: Sequence[Config], run: Callable[[Config], Any]) -> int:
    times = [_time(functools.partial(run, chosen)) for chosen in candidates]
    return times.index(min(times))


def _time(call: Callable[[], Any]) -> float:
    """Milliseconds; infinite where the device lacks the resources."""
    try:
        return float(triton.testing.do_bench(call, warmup=5, rep=20))
    except OutOfResources:
        return float("inf")


@functools.cache
def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


def _file(key: str) -> Path:
    return Path(triton.knobs.cache.dir, "rearec", f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json")


def _read(key: str, candidates: int) -> int:
    """The index that was chosen before, or -1."""
    try:
        found = json.loads(_file(key).read_text(encoding="utf-8"))
        return int(found["chosen"]) if found["key"] == key and 0 <= int(found["chosen"]) < candidates else -1
    except (OSError, ValueError, KeyError, TypeError):
        return -1


def _write(key: str, chosen: int) -> None:
    """Aside first; a folder that cannot be written to means measuring again next time."""
    path = _file(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump({"key": key, "chosen": chosen}, file)
        os.replace(file.name, path)
    except OSError:
        return
