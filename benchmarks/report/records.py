"""The json files of benchmark runs, sorted by machine; of a comparison that several runs made, the latest counts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass
class Machine:
    """What was measured on one GPU, or on one processor with one number of threads. runs: in order of their date."""

    runs: list[Record] = field(default_factory=list)
    comparisons: dict[str, Record] = field(default_factory=dict)

    @property
    def title(self) -> str:
        machine = self.runs[-1]["machine"]
        if "gpu" in machine:
            return f"GPU: {machine['gpu']['name']}"
        threads = machine["threads"]
        return f"{machine['processor']}, {threads} thread{'s' if threads != 1 else ''}"

    def groups(self) -> dict[str, list[Record]]:
        """Comparisons by the module that made them, points of scans left out."""
        found: dict[str, list[Record]] = {}
        for comparison in self.comparisons.values():
            if "scan" not in comparison:
                found.setdefault(comparison["group"], []).append(comparison)
        return found

    def scans(self) -> dict[str, list[Record]]:
        """Points of each scan, in ascending order."""
        found: dict[str, list[Record]] = {}
        for comparison in self.comparisons.values():
            if "scan" in comparison:
                found.setdefault(f"{comparison['scan']} by {comparison['axis']}", []).append(comparison)
        return {name: sorted(points, key=lambda point: point["value"]) for name, points in found.items()}


@dataclass
class Records:
    machines: list[Machine]
    peers: list[Record]
    ignored: dict[Path, str]


def load(paths: Iterable[Path]) -> Records:
    """Raises OSError for a file that cannot be read, ValueError for one that is no json."""
    machines: dict[tuple[str, int], Machine] = {}
    peers: dict[tuple[str, ...], Record] = {}
    ignored: dict[Path, str] = {}
    for path, record in sorted(((p, _read(p)) for p in paths), key=lambda pair: (pair[1].get("date", ""), pair[0])):
        if record.get("dry_run"):
            ignored[path] = "a dry run"
        elif "contenders" in record:
            peers[record["machine"]["processor"], record["kind"], record["data"]["name"]] = record
        elif "comparisons" in record:
            machine = record["machine"]
            what = (machine["gpu"]["name"], 0) if "gpu" in machine else (machine["processor"], machine["threads"])
            _add(machines.setdefault(what, Machine()), record)
        else:
            ignored[path] = "no comparisons in it"
    # The one that was measured last comes first, and with more threads before fewer.
    by_date = sorted(machines.values(), key=lambda m: (m.runs[-1]["date"], m.runs[-1]["machine"]["threads"]))
    return Records(by_date[::-1], [*peers.values()], ignored)


def _read(path: Path) -> Record:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no json: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}: holds {type(record).__name__}, expected the record of a run")
    return record


def _add(machine: Machine, record: Record) -> None:
    origin = {"date": record.get("date", "unknown date"), "commit": record.get("commit")}
    machine.runs.append(record)
    for comparison in record["comparisons"]:
        machine.comparisons[comparison["name"]] = comparison | origin
