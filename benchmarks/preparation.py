"""How long `rearec prepare table` takes and how much memory, by interactions: `python benchmarks/preparation.py`.

For each size a table is written (`big_table.py`), prepared by the command in a process of its own, and deleted. Counted
are wall time, processor time, and the most memory that the process and all that it starts have resident together,
looked at every 50 ms, or the peak of the process itself where it is more (Linux). Prints a line for each size and
writes one json. `--curve` makes a csv and a plot of such a json, beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import big_table
import torch
from measure import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--powers", type=int, nargs="+", choices=big_table.SHAPES, default=list(big_table.SHAPES))
    parser.add_argument("--memory-limit", default="4GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--options", default="", help="further options of the command, in one text")
    parser.add_argument("--work", type=Path, help="a folder for tables and datasets")
    parser.add_argument("--table", type=Path, help="a folder that big_table.py wrote, of the only size; it is kept")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--json", type=Path, help="measure, and write this file")
    what.add_argument("--curve", type=Path, metavar="JSON", help="draw what was measured")
    options = parser.parse_args()
    if options.curve:
        draw(options.curve)
        return
    found = []
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        for power in options.powers:
            found.append(measure(power, Path(work), options))
            print(json.dumps(found[-1]), flush=True)
    cpu = torch.device("cpu")
    record = {
        "date": f"{date.today()}",
        "commit": machine.commit(),
        "command": f"python benchmarks/preparation.py --powers {' '.join(map(str, options.powers))} --json FILE",
        "options": f"--memory-limit {options.memory_limit} --threads {options.threads} {options.options}".strip(),
        "machine": machine.describe(cpu, options.threads),
        "versions": machine.versions(cpu),
        "preparations": found,
    }
    options.json.write_text(json.dumps(record, indent=1) + "\n")


def measure(power: int, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the preparation of one size took."""
    table, out = options.table or work / f"table-{power}", work / f"data-{power}"
    if options.table is None:
        big_table.write(big_table.SHAPES[power], table)
    command = [sys.executable, "-m", "rearec", "prepare", "table", str(table), "--out", str(out), "--json"]
    command += ["--memory-limit", options.memory_limit, "--threads", str(options.threads), *options.options.split()]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, peak, prepared = time.perf_counter(), 0, None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            if prepared is None and out.exists():
                prepared = time.perf_counter() - began
            time.sleep(0.05)
        output, errors = process.communicate()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(errors)
    result = json.loads(output)
    shutil.rmtree(out)
    if options.table is None:
        shutil.rmtree(table)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rows = result["statistics"]["interactions"]
    return {
        "interactions": rows,
        "users": result["statistics"]["users"],
        "items": result["statistics"]["items"],
        "wall_s": round(wall, 1),
        # Until the dataset is there; what follows are the floors.
        "wall_without_floors_s": round(prepared or wall, 1),
        "cpu_s": round(cpu, 1),
        "rows_per_cpu_s": round(rows / cpu),
        "peak_mb": round(peak / 10**6),
        "load_average": os.getloadavg()[1],
    }


def draw(record: Path) -> None:
    """Time and memory against interactions, as csv and PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = json.loads(record.read_text())["preparations"]
    columns = ("interactions", "users", "items", "cpu_s", "wall_without_floors_s", "peak_mb", "load_average")
    with record.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    sizes = [one["interactions"] for one in found]
    panels = (("cpu_s", "processor time (s)"), ("peak_mb", "peak memory (MB)"))
    for ax, (key, label) in zip(figure.subplots(1, 2), panels, strict=True):
        ax.plot(sizes, [one[key] for one in found], color="#08519c", marker="o")
        ax.set(xscale="log", yscale="log", xlabel="interactions", ylabel=label)
        ax.grid(alpha=0.3)
        ax.margins(0.15)
        for one in found:
            ax.annotate(f"{one[key]:,.0f}", (one["interactions"], one[key]), (4, -12), textcoords="offset points")
    figure.savefig(record.with_suffix(".png"), dpi=110, metadata={"Software": None})


def resident(pid: int) -> int:
    """Bytes of a process and its descendants, or the most that the process itself ever had, whichever is more."""
    total, highest, tree = 0, 0, [pid]
    while tree:
        one = tree.pop()
        try:
            status = Path(f"/proc/{one}/status").read_text()
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            tree += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:  # it has ended
            continue
        total += _kilobytes(status, "VmRSS")
        highest = max(highest, _kilobytes(status, "VmHWM") if one == pid else 0)
    return max(total, highest) * 1024


def _kilobytes(status: str, name: str) -> int:
    _, found, rest = status.partition(f"{name}:")
    return int(rest.split()[0]) if found else 0


if __name__ == "__main__":
    main()
