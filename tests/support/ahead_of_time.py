"""Compiles the Triton kernels to machine code without a GPU, as the backend would launch them at the paper's sizes, and
says what each takes: `python ahead_of_time.py --arch 80 90 100 > report.json`.

The backend's functions run on CPU tensors with `launch` replaced: nothing is computed, what would be launched is
compiled. Not with TRITON_INTERPRET=1, which is for values.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rearec_kernels.dropout import ALL_ROWS
from rearec_kernels.ops.arguments import (
    AnnealedCrossEntropy,
    Attention,
    AttentionBackward,
    AttentionDecode,
    EnsembleReasoning,
    InfoNCE,
    Needed,
    PrefixGradient,
    Rank,
    Rows,
    TopK,
)
from rearec_kernels.triton import attention, ensemble, losses, retrieval
from rearec_kernels.triton.launch import Config

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# In PTX: of one of them ptxas makes an instruction of the tensor cores, and of nothing else.
TENSOR_CORES = r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b"
MODULES = (attention, ensemble, losses, retrieval)
ROWS, STATES, WIDTH, ITEMS = 2048, 3, 256, 22_933

Launch = tuple[Any, Config, tuple[Any, ...], dict[str, Any]]


# --- what is launched ---


def cases() -> dict[str, Callable[[], object]]:
    """By name: calls that launch every kernel, at the paper's sizes (attention: fewer rows)."""
    hidden, weight = torch.zeros(ROWS, STATES, WIDTH), torch.zeros(ITEMS, WIDTH)
    target, steps = torch.zeros(ROWS, dtype=torch.int64), torch.ones(STATES, dtype=torch.float64)
    both = Needed(True, True)
    found: dict[str, Callable[[], object]] = {}
    for precision in ("bf16", "fp32"):

        def annealed(precision: str = precision) -> object:
            loss = AnnealedCrossEntropy(hidden, weight, target, -100, steps, steps, precision, None, None, None)
            return losses.annealed_cross_entropy(loss, both)

        def ensembled(precision: str = precision) -> object:
            loss = EnsembleReasoning(hidden, weight, target, -100, 0.07, 0.05, "official", precision)
            return losses.ensemble_reasoning_loss(loss, both)

        def ranked(precision: str = precision) -> object:
            states = hidden[:256, 0]
            retrieval.catalog_topk(TopK(states, weight, 20, None, None, precision, None))
            return retrieval.catalog_rank(Rank(states, weight, target[:256], None, None, precision, None, None, None))

        found |= {
            f"annealed {precision}": annealed,
            f"ensemble {precision}": ensembled,
            f"retrieval {precision}": ranked,
        }

    def contrasted() -> object:
        states = hidden[:, 1:].contiguous()
        return losses.reasoning_info_nce(InfoNCE(states, states, target, 0, 0.07, "bf16"), both)

    def excluded() -> object:
        offsets, states = torch.arange(257), hidden[:256, 0]
        retrieval.catalog_topk(TopK(states, weight, 20, None, target[:100], "bf16", None))
        retrieval.catalog_topk(TopK(states, weight, 20, offsets, target[:256], "bf16", None))
        return retrieval.catalog_rank(
            Rank(states, weight, target[:256], offsets, target[:256], "bf16", None, None, None)
        )

    found |= {"contrast bf16": contrasted, "exclusion bf16": excluded}
    for dtype in (torch.bfloat16, torch.float32):
        found[f"attention {str(dtype).removeprefix('torch.')}"] = lambda dtype=dtype: attend(dtype)
    return found


def attend(dtype: torch.dtype) -> None:
    rows, slots, heads, width = 64, 50, 2, 128
    prefix, token = torch.zeros(rows, slots, heads, width, dtype=dtype), torch.zeros(rows, 1, heads, width, dtype=dtype)
    index = torch.arange(rows + 1, dtype=torch.int32)
    seen = Rows(torch.zeros_like(index[:-1]), torch.full_like(index[:-1], slots), index[:-1], index[:-1])
    seed = torch.zeros(1, dtype=torch.int64)
    buffer = torch.zeros(rows, 3, heads, width, dtype=dtype)
    decoded = AttentionDecode(token, token, token, prefix, prefix, buffer, buffer.clone(), 1, 0.1, 0.0, None)
    attention.attention_decode(decoded, seen, ALL_ROWS)
    attended = Attention(token, [token], [token], prefix, prefix, [], 0.1, 0.5, seed, True)
    _, probs, token_probs = attention.attention(attended, seen, ALL_ROWS)
    gradient = AttentionBackward(token, token, [token], [token], prefix, prefix, probs, token_probs, 0.1, 0.5)
    *_, dscores = attention.attention_backward(gradient, seen)
    carried = PrefixGradient([dscores], [probs], [token], [token], prefix, prefix, index)
    attention.attention_prefix_gradient(carried, seen)


def launches(call: Callable[[], object], arch: int) -> list[Launch]:
    """What the call would launch on a GPU of compute capability `arch` / 10; what comes chunk by chunk, once."""
    seen: dict[str, Launch] = {}

    def record(kernel: Any, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        kinds = [type_name(x) if x is not None else "" for x in arguments]
        seen.setdefault(str((kernel.__name__, config, constants, kinds)), (kernel, config, arguments, constants))

    for module in MODULES:
        vars(module).update(launch=record)
        if hasattr(module, "add_product"):
            vars(module).update(add_product=lambda total, a, b, is_first: None)
        if hasattr(module, "architecture"):
            vars(module).update(architecture=lambda device: arch)
    call()
    return list(seen.values())


# --- compiling it ---


def compile_launch(launch: Launch, arch: int) -> dict[str, Any]:
    kernel, config, arguments, constants = launch
    constants = {**constants, **config.constants}
    signature: dict[str, str] = {}
    aligned = {}
    given = iter(arguments)
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        value = next(given)
        specialized = not kernel.params[i].do_not_specialize
        if value is None or (isinstance(value, int) and value == 1 and specialized):
            signature[name], constants[name] = "constexpr", value  # as a launch would
        else:
            signature[name] = type_name(value)
            if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0 and specialized):
                aligned[(i,)] = [["tt.divisibility", 16]]
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=aligned)
    options = {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return {
        "kernel": kernel.__name__,
        "arch": arch,
        "triton": triton.__version__,
        "blocks": config.constants,
        "warps": config.warps,
        "stages": config.stages,
        "shared": compiled.metadata.shared,
        "multiplies": "tt.dot" in compiled.asm["ttir"],
        "tensor_cores": len(re.findall(TENSOR_CORES, compiled.asm["ptx"])),
        **machine_code(compiled.asm["cubin"]),
    }


def type_name(value: Any) -> str:
    if isinstance(value, Tensor):
        names = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "bool": "i1", "int64": "i64", "int32": "i32"}
        return "*" + names[str(value.dtype).removeprefix("torch.")]
    if isinstance(value, int):
        return "i32" if abs(value) < 2**31 else "i64"
    assert isinstance(value, float), value
    return "fp32"


def machine_code(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and accesses to spilled ones.

    The instructions are read, which takes half a second, where there is memory that they could have been spilled to.
    """

    def told(tool: str, option: str) -> str:
        return subprocess.run([TOOLS / tool, option, file.name], capture_output=True, text=True, check=True).stdout

    instructions: list[str] = []
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = told("cuobjdump", "--dump-resource-usage")
        found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
        assert found is not None, usage
        registers, stack, local = map(int, found.groups())
        if stack or local:
            code = told("nvdisasm", "-c")
            pattern = r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)"
            instructions = re.findall(pattern, code, re.MULTILINE)
            assert instructions
    return {"registers": registers, "spills": sum(instructions.count(name) for name in ("LDL", "STL"))}


def report_case(name: str, arch: int) -> list[dict[str, Any]]:
    return [{"case": name, **compile_launch(launch, arch)} for launch in launches(cases()[name], arch)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100])
    parser.add_argument("--case", nargs="+", default=list(cases()), choices=list(cases()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with ProcessPoolExecutor() as pool:
        reports = [pool.submit(report_case, name, arch) for arch in options.arch for name in options.case]
        json.dump([entry for report in reports for entry in report.result()], sys.stdout, indent=1)


if __name__ == "__main__":
    main()
