"""The record of a run: its expected form, its file, and the table."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DRY_RUN_NOTE = "dry run: no figure here is a GPU figure"

Record = dict[str, Any]

# Key -> type, of the record, of a stage, of what each stage adds, and of a comparison.
RECORD = {
    "dry_run": bool, "date": str, "commit": (str, type(None)), "command": str, "seconds": (int, float), "passed": bool,
    "machine": dict, "stages": dict, "verdicts": dict,
}  # fmt: skip
STAGE = {"status": str, "seconds": (int, float), "errors": list}
CHECKED: dict[str, dict[str, Any]] = {
    "build": {"kernels": list},
    "tests": {"counts": dict, "failed": list, "on_device": dict},
    "sanitize": {"found": dict},
}
CALLS, REPLAYS = {"errors": dict, "out_of_memory": dict, "calls": dict}, {"replays": dict, "not_captured": dict}
BANDWIDTHS, ABSENT = {"bandwidth": dict}, {"absent": dict}
CASE: dict[str, dict[str, Any]] = {
    "ceilings": {"copy_gb_per_s": float},
    "forward": CALLS | REPLAYS | BANDWIDTHS | ABSENT,
    "shared": CALLS | REPLAYS | BANDWIDTHS | ABSENT,
    "training": CALLS | REPLAYS,
    "rollout": CALLS,
    "losses": CALLS | REPLAYS | ABSENT,
    "retrieval": CALLS | REPLAYS | BANDWIDTHS | ABSENT,
}
COMPARISON = {"median_ms": dict, "quartiles_ms": dict, "runs": dict, "peak_memory_mb": dict, "targets": list}
TARGET = {"kind": str, "against": str, "must": (int, float), "aim": (int, float), "got": float, "verdict": str}
BANDWIDTH = {"bytes": int, "gb_per_s": float, "ceiling": str, "ceiling_gb_per_s": float, "share": float}
PRODUCTS = {"count": float, "product_ms": float, "tflops": float}
STATUSES = ("passed", "failed", "printed")


def problems(record: Record) -> list[str]:
    """What of the record is not as it should be; stages and cases that failed need not be complete."""
    found = list(_wrong(record, RECORD, "record"))
    for stage, got in record.get("stages", {}).items():
        found += _wrong(got, STAGE, stage)
        if got.get("status") not in STATUSES:
            found.append(f"{stage}: status {got.get('status')!r}")
        if stage in CHECKED and got.get("status") == "passed":
            found += _wrong(got, CHECKED[stage], stage)
        if stage in CASE and not got.get("cases"):
            found += [] if got.get("status") == "failed" else [f"{stage}: no cases"]
        for case in got.get("cases", []):
            found += _wrong_case(case, CASE[stage], f"{stage}, {case.get('name')}")
    return found


def _wrong_case(case: Record, expected: dict[str, Any], where: str) -> Iterator[str]:
    if "error" in case:
        return
    incomplete = {"replays"} if "ours" in case.get("not_captured", {}) else set()
    yield from _wrong(case, {key: kind for key, kind in expected.items() if key not in incomplete}, where)
    for kind in ("calls", "replays"):
        if kind in case:
            yield from _wrong(case[kind], COMPARISON, f"{where}, {kind}")
            for target in case[kind].get("targets", []):
                yield from _wrong(target, TARGET, f"{where}, {kind}, target")
            if "ours" not in case[kind].get("median_ms", {}):
                yield f"{where}, {kind}: no time of ours"
    for key, form in (("bandwidth", BANDWIDTH), ("products", PRODUCTS)):
        if key in case:
            yield from _wrong(case[key], form, f"{where}, {key}")


def _wrong(got: Record, expected: dict[str, Any], where: str) -> Iterator[str]:
    for key, kind in expected.items():
        if key not in got:
            yield f"{where}: {key} is missing"
        elif not isinstance(got[key], kind):
            yield f"{where}: {key} is {type(got[key]).__name__}"


def verdicts(stages: dict[str, Record]) -> Counter[str]:
    """How often each verdict was given."""
    return Counter(
        target["verdict"] for stage in stages.values() for case in stage.get("cases", []) for target in _targets(case)
    )


def _targets(case: Record) -> list[Record]:
    given = [target for kind in ("calls", "replays") for target in case.get(kind, {}).get("targets", [])]
    return given + [case[key] for key in ("bandwidth", "products") if "verdict" in case.get(key, {})]


def write(record: Record, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def file_name(record: Record, stages: list[str] | None) -> str:
    """`stages`: those that were chosen, when not all."""
    device = re.sub(r"[^a-z0-9]+", "-", record["machine"]["device"]["name"].lower()).strip("-")
    return "-".join([record["date"], "gpu", device, *(stages or [])]) + ".json"


# --- the table ---


def table(record: Record) -> str:
    """Stages first, then a line per case and way of timing: ours, and how many times as long the others take."""
    device = record["machine"]["device"]
    lines = [f"{device['name']}, {record['date']}, commit {record['commit'] or 'unknown'}"]
    for stage, got in record["stages"].items():
        lines.append("")
        lines.append(f"{stage}: {got['status']}, {got['seconds']:.0f} s{_summary(stage, got)}")
        lines += [f"  {error}" for error in got["errors"]]
        for case in got.get("cases", []):
            lines += _case_lines(case)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(record["verdicts"].items()))
    lines += ["", f"targets: {counts or 'none'}", "passed" if record["passed"] else "FAILED"]
    return "\n".join([DRY_RUN_NOTE, *lines, DRY_RUN_NOTE] if record["dry_run"] else lines)


def _summary(stage: str, got: Record) -> str:
    if got.get("kernels"):
        registers, spills = (max(kernel[key] for kernel in got["kernels"]) for key in ("registers", "spills"))
        return f"; {len(got['kernels'])} kernels, at most {registers} registers, {spills} bytes spilled"
    if stage == "tests" and "counts" in got:
        counts = ", ".join(f"{count} {ended}" for ended, count in sorted(got["counts"].items()))
        failed = "".join(f"\n  {name}" for name in got["failed"])
        on_device = ", ".join(f"{count} in {backend}" for backend, count in got["on_device"].items())
        return f"; {counts}; on the device {on_device}{failed}"
    if stage == "sanitize" and "found" in got:
        return "; " + ", ".join(f"{tool} {found}" for tool, found in got["found"].items())
    return ""


def _case_lines(case: Record) -> list[str]:
    if "error" in case:
        return [f"  {case['name']}: {case['error'].splitlines()[0]}"]
    if "copy_gb_per_s" in case:
        return [f"  {case['name']}: {case['copy_gb_per_s']:.0f} GB/s read and written"]
    lines = []
    judged = "replays" if "replays" in case else "calls"
    for kind in ("replays", "calls"):
        if kind in case and (case[kind]["targets"] or kind == judged):
            rates = _rates(case) if kind == judged else ""
            lines.append(f"  {case['name']:<30} {kind:<8}{rates}{_times(case[kind])}")
    notes = dict(case["errors"])
    for key, ending in (("out_of_memory", "does not fit"), ("not_captured", "not captured")):
        notes |= {f"{who}, {ending}": why for who, why in case.get(key, {}).items()}
    return lines + [f"    {who}: {why}" for who, why in notes.items()]


def _rates(case: Record) -> str:
    """Of ours: bandwidth, and time in matrix products."""
    text = ""
    if "bandwidth" in case:
        got = case["bandwidth"]
        text += f"{got['gb_per_s']:6.0f} GB/s {100 * got['share']:3.0f} % of {got['ceiling']}{_mark(got)}  "
    if "products" in case:
        got = case["products"]
        text += f"{got['count']:5.1f} products{_mark(got)}  "
    return text


def _times(comparison: Record) -> str:
    """Ours in microseconds; of each other contender how many times that, its verdict, and how many times the memory."""
    median, memory = comparison["median_ms"], comparison["peak_memory_mb"]
    marks = {(target["kind"], target["against"]): _mark(target) for target in comparison["targets"]}
    parts = [f"{1e3 * median['ours']:8.1f} us"]
    for who, time in median.items():
        if who != "ours":
            more = ""
            if memory.get("ours"):
                more = f" ({memory[who] / memory['ours']:.1f}x memory{marks.get(('memory', who), '')})"
            parts.append(f"{who} {time / median['ours']:.2f}x{marks.get(('time', who), '')}{more}")
    return "  ".join(parts)


def _mark(target: Record) -> str:
    return f" {target['verdict'].removesuffix(' met')}" if "verdict" in target else ""
