"""Which backend serves which call, from the records by which calls are dispatched."""

from __future__ import annotations

import re
from pathlib import Path

from rearec_kernels import backends

LIMITS = Path(__file__).parents[2] / "csrc" / "kernel_limits.h"
# The order of the table.
NAMES = ("reference", "cpu", "cuda", "triton")
WORDS = {"head_dim": "head width", "states": "states of a row", "k": "k"}


def backend_table() -> str:
    """Markdown: a section for each public call with a line for each backend that serves it.

    The same on every machine: what an install without native code lacks is filled in.
    """
    records = {name: backends.find(name) for name in NAMES}
    calls = sorted({call for record in records.values() for call in record.serves})
    sections = []
    for call in calls:
        rows = [_row(name, call, records[name].serves[call]) for name in NAMES if call in records[name].serves]
        sections.append(
            f"### {call}\n\n| backend | dtypes | precision | up to |\n|---|---|---|---|\n" + "\n".join(rows)
        )
    return "\n\n".join(sections)


def _row(name: str, call: str, serves: backends.Serves) -> str:
    dtypes = "all" if serves.dtypes is None else ", ".join(sorted(str(each)[6:] for each in serves.dtypes))
    words = [f"{each} (slower)" if each in serves.slow_precisions else each for each in serves.precisions]
    limits = ", ".join(f"{WORDS[size]} {_limit(name, size, most)}" for size, most in serves.limits.items())
    return f"| {name} | {dtypes} | {', '.join(words) or '–'} | {limits or '–'} |"


def _limit(name: str, size: str, most: int) -> int:
    """The limit; that of kernels which this install does not have, from where they are told it."""
    if (name, size) == ("cuda", "head_dim"):
        return int(re.findall(r"kMaxHeadDim = (\d+)", LIMITS.read_text(encoding="utf-8"))[1])
    return most
