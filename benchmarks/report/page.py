"""Writes RESULTS.md and its plots from the json files of benchmark runs: `python benchmarks/report`.

Takes the files given, or all in benchmarks/results; of a comparison that several of them hold, the latest. Runs are
written by `pytest benchmarks/ --benchmark-only --bench-json FILE`, on a GPU through `benchmarks/gpu.sh`, those beside
other libraries by `benchmarks/peers.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from report import peers, tables
from report.records import Machine, Record, Records, load

BENCHMARKS = Path(__file__).resolve().parents[1]
GROUPS = {
    "training": "Training step",
    "inference": "Whole inference",
    "rollout": "Rollout",
    "losses": "Losses",
    "attention": "Attention",
    "retrieval": "Retrieval",
    "processes": "Two processes of one thread beside one",
    "busy_machine": "Two threads on an idle and on a busy machine",
}
# Those that a figure depends on; the files have all.
VERSIONS = ("python", "torch", "triton", "cuda")
INTRODUCTION = """# Benchmark results

Written by `python benchmarks/report` from the files in [results](results); do not edit.
[README.md](README.md) tells how to run the benchmarks, what the contenders are and what is measured.

Times are medians of alternating runs in one process. A number with × says how many times as much as ours the other
takes: below 1 it is better than ours. The best of a row is bold. Every machine has one section, in which of each
comparison the latest run stands; the earlier ones are in [results](results) and in the history of this file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", nargs="*", type=Path, help="files of runs (default: benchmarks/results/*.json)")
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "RESULTS.md", help="plots go to plots beside it")
    options = parser.parse_args()
    try:
        records = load(options.json or sorted((BENCHMARKS / "results").glob("*.json")))
        for path, why in records.ignored.items():
            print(f"{path}: left out, {why}", file=sys.stderr)
        write(records, options.out)
    except (OSError, ValueError) as error:
        raise SystemExit(f"report: {error}") from error
    print(options.out)


def write(records: Records, out: Path) -> None:
    """RESULTS.md and the plots."""
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = [INTRODUCTION]
    for machine in records.machines:
        parts += _machine(machine, out)
    for record in records.peers:
        parts += [f"## Beside other libraries: {record['kind']}", peers.section(record)]
        if record["kind"] == "quality":
            parts += _curves(record, out)
    out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _curves(record: Record, out: Path) -> Iterator[str]:
    from report.curves import plot_curves  # matplotlib takes its time to import

    path = plot_curves(record, out.parent / "plots")
    if path is not None:
        yield f"![time to quality]({Path(os.path.relpath(path, out.parent)).as_posix()})"


def _machine(machine: Machine, out: Path) -> Iterator[str]:
    comparisons = list(machine.comparisons.values())
    yield f"## {machine.title}"
    yield "\n".join(_run(run) for run in machine.runs)
    if "gpu" in machine.runs[-1]["machine"]:
        yield "Calls are single calls from an idle device, replays are of CUDA graphs."
    yield f"### Where ours is not the fastest\n\n{tables.summary(comparisons)}"
    yield from filter(None, [tables.slower(comparisons)])
    limits = tables.limits(comparisons)
    if limits:
        yield "### Beside what the machine can do"
        yield limits
    groups = machine.groups()
    for group in sorted(groups, key=lambda name: list(GROUPS).index(name) if name in GROUPS else len(GROUPS)):
        yield f"### {GROUPS.get(group, group.replace('_', ' ').capitalize())}"
        yield from _group(group, groups[group])
    if machine.scans():
        yield "### Growth with N, R, T, K and the length of histories"
        yield from _plots(machine, out)


def _run(run: Record) -> str:
    """What was measured with what."""
    versions = ", ".join(f"{name} {run['versions'][name]}" for name in VERSIONS if name in run["versions"])
    isa = run.get("build", {}).get("isa")
    built = f"; kernels for {isa}" if isa else ""
    command = f"; `{run['command']}`" if run.get("command") else ""
    origin = f"{run.get('date', 'unknown date')}, commit {(run.get('commit') or 'unknown')[:8]}"
    count = len(run["comparisons"])
    return f"- {origin}: {count} comparisons; {versions}; {run['machine']['system']}{built}{command}"


def _group(group: str, comparisons: list[Record]) -> Iterator[str]:
    timed = [c for c in comparisons if c["median_ms"]]
    if group == "inference":
        yield tables.latencies(timed)
        yield "Medians beside ours:"
    yield from tables.comparisons(comparisons)
    if any(c.get("rows") for c in timed):
        reckoned = any("epoch_rows" in c for c in timed)
        yield "Rows per second" + (", and in brackets the time of an epoch reckoned from it:" if reckoned else ":")
        yield tables.throughput(timed)


def _plots(machine: Machine, out: Path) -> Iterator[str]:
    from report.plots import plot_scan  # matplotlib takes its time to import

    threads = machine.runs[-1]["machine"]["threads"]
    for name, points in machine.scans().items():
        path = plot_scan(name, points, out.parent / "plots", f"{threads} threads")
        yield f"![{name}]({Path(os.path.relpath(path, out.parent)).as_posix()})"
