"""What tests/support/compiler_log.py reads from nvcc's logs."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiler_log import kernels


def test_registers_stack_and_spills(tmp_path: Path) -> None:
    log = tmp_path / "cuda__attention_forward.cu.o.log"
    entry = "ptxas info    : Compiling entry function '{0}' for 'sm_90a'\nptxas info    : Function properties for {0}\n"
    log.write_text(
        "ptxas info    : 0 bytes gmem\n"
        + entry.format("_ZN6rearec4cuda1fIfEEvT_")
        + "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        + "ptxas info    : Used 88 registers, used 1 barriers, 4128 bytes smem, 1920 bytes cmem[0]\n"
        + entry.format("plain")
        + "    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\nptxas info    : Used 255 registers\n"
    )
    first, second = kernels([log])
    assert (first.source, first.arch, first.registers, first.spills) == ("cuda/attention_forward.cu", "90a", 88, 0)
    assert (second.name, second.registers, second.stack, second.spills, second.shared_memory) == (
        "plain",
        255,
        16,
        12,
        0,
    )
    assert first.shared_memory == 4128
    log.write_text(entry.format("plain"))
    with pytest.raises(ValueError, match="no stack or registers of plain"):
        kernels([log])
    log.write_text("")
    assert kernels([log]) == []
