"""Runs on GPUs as benchmarks/gpu.py wrote them until November 2026: the results of that time have this form."""

from __future__ import annotations

from collections.abc import Iterator

from report import tables
from report.tables import Record


def section(record: Record) -> Iterator[str]:
    """What was measured with what, and a part for every stage."""
    machine = record["machine"]
    yield f"## GPU: {machine['device']['name']}"
    outcome = "passed" if record["passed"] else "a stage failed"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    yield f"- {record['date']}, commit {record['commit'] or 'unknown'}: {outcome}; {versions}; `{record['command']}`"
    yield "Calls are single calls from an idle device, replays are of CUDA graphs."
    for stage, got in record["stages"].items():
        comparisons = list(_comparisons(got))
        yield f"### On this GPU: {stage}, {got['status']}"
        if got["errors"]:
            yield "\n".join(f"- {error}" for error in got["errors"])
        yield from filter(None, [tables.targets(comparisons)])
        yield from tables.comparisons(comparisons)


def _comparisons(stage: Record) -> Iterator[Record]:
    """A case's calls and replays, in the form of a comparison on a CPU."""
    for case in stage.get("cases", []):
        notes: dict[str, str] = dict(case.get("absent", {})) | {
            f"{who}, {case['name']}": why
            for key in ("errors", "out_of_memory", "not_captured")
            for who, why in case.get(key, {}).items()
        }
        for kind in ("calls", "replays"):
            if kind in case:
                yield {**case[kind], "name": f"{case['name']}, {kind}", "absent": notes}
        reckoned = [
            {"kind": kind, "against": against, "got": case[kind][got], **case[kind]}
            for kind, against, got in (("bandwidth", "copying", "share"), ("products", "one matrix product", "count"))
            if "verdict" in case.get(kind, {})
        ]
        if reckoned:
            yield {"name": case["name"], "targets": reckoned, "median_ms": {}, "peak_memory_mb": {}}
