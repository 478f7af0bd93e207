"""Two installs of the package on one machine, in alternation: `python benchmarks/before_after.py BEFORE AFTER`.

Each is a source tree with its native module (a folder, for PYTHONPATH) or the interpreter of an environment (a file).
For each case a worker process of each is asked in turn for one timed call, the order reversed every other time; imports
and `--help` are processes of their own. Where a process finds its memory moves its times by some percent for as long as
it lives, so there are several pairs of workers: the result is the median, lowest and highest of their ratios of
medians, after over before. Writes a json and a Markdown table beside it. Leave the machine idle meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from before_after_worker import CASES
from measure.machine import processor_name

HERE = Path(__file__).resolve().parent
# Seconds after which the threads of the other one's worker no longer look out for work.
PAUSE = 0.05
COMMAND_LINE = "from rearec.cli import main; main()"
# Arguments of the interpreter.
PROCESSES = {
    "import rearec": ["-c", "import rearec"],
    "import rearec_kernels": ["-c", "import rearec_kernels"],
    "rearec --help": ["-c", COMMAND_LINE, "--help"],
    "rearec train --help": ["-c", COMMAND_LINE, "train", "--help"],
}


class Install:
    """One of the two, and its worker."""

    def __init__(self, place: Path, folder: str) -> None:
        if not place.exists():
            raise SystemExit(f"before_after.py: {place}: not there, expected a source tree or an interpreter")
        tree = place.resolve() if place.is_dir() else None
        self.python = sys.executable if tree else str(place.absolute())
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if tree:
            self.environment["PYTHONPATH"] = str(tree)
        self.worker: subprocess.Popen[str] | None = None

    def seconds(self, case: str) -> float:
        if case in PROCESSES:
            begin = time.perf_counter()
            if self._start(PROCESSES[case]).wait():
                raise SystemExit(f"before_after.py: {case}: failed with {self.python}")
            return time.perf_counter() - begin
        if self.worker is None:
            self.worker = self._start([str(HERE / "before_after_worker.py")], stdin=subprocess.PIPE)
        assert self.worker.stdin is not None and self.worker.stdout is not None
        time.sleep(PAUSE)
        print(case, file=self.worker.stdin, flush=True)
        answer = self.worker.stdout.readline()
        if not answer:
            raise SystemExit(
                f"before_after.py: {case}: the worker of {self.environment.get('PYTHONPATH', self.python)} died"
            )
        return float(answer)

    def stop(self) -> None:
        """Ends the worker; the next call starts another."""
        if self.worker is not None:
            self.worker.communicate()
            self.worker = None

    def _start(self, arguments: list[str], **options: Any) -> subprocess.Popen[str]:
        command = [self.python, *arguments]
        return subprocess.Popen(
            command, env=self.environment, cwd=self.folder, stdout=subprocess.PIPE, text=True, **options
        )


def ratios(times: dict[str, list[list[float]]]) -> list[float]:
    """Of the medians, after over before, of each pair of workers."""
    pairs = zip(times["before"], times["after"], strict=True)
    return [statistics.median(after) / statistics.median(before) for before, after in pairs]


def table(record: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| case | before | after | after / before | pairs of workers |", "|---|---|---|---|---|"]
    for case, times in record["cases"].items():
        medians = (_time(statistics.median(itertools.chain(*times[which]))) for which in ("before", "after"))
        lines.append(f"| {case} | {' | '.join(medians)} | {_words(times)} |")
    origin = (
        f"{record['date']}, {record['machine']}, {record['threads']} threads, {record['pairs']} pairs of workers, "
        f"{record['runs']} turns each, load {record['load'][0]:.1f} before and "
    )
    return "\n".join([f"{origin}{record['load'][1]:.1f} after; `{record['command']}`", "", *lines])


def _words(times: dict[str, list[list[float]]]) -> str:
    found = ratios(times)
    return f"{statistics.median(found):.3f} | {min(found):.3f} to {max(found):.3f}"


def _time(seconds: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(seconds * 1e3)))
    return f"{seconds * 1e3:.{digits}f} ms"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--runs", type=int, default=9, help="turns of each case and pair (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of workers (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose names begin so")
    parser.add_argument("--out", type=Path, help="the json (default: benchmarks/results/DATE-before-after.json)")
    options = parser.parse_args(arguments)
    chosen = [name for name in (*CASES, *PROCESSES) if not options.only or name.startswith(tuple(options.only))]
    load = os.getloadavg()[0]
    cases: dict[str, dict[str, list[list[float]]]] = {case: {"before": [], "after": []} for case in chosen}
    for pair in range(options.pairs):
        order = ["before", "after"][:: -1 if pair % 2 else 1]
        with tempfile.TemporaryDirectory(prefix="before-after-") as folder:
            installs = {which: Install(getattr(options, which), folder) for which in order}
            for case, times in cases.items():
                for install in installs.values():
                    install.seconds(case)  # the first call makes the inputs, and fills caches of files
                for which in order:
                    times[which].append([])
                for turn in range(options.runs):
                    for which in order[:: -1 if turn % 2 else 1]:
                        times[which][-1].append(installs[which].seconds(case))
                for install in installs.values():
                    install.stop()
                print(f"pair {pair + 1}, {case}: {ratios(times)[-1]:.3f}", file=sys.stderr, flush=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": processor_name(),
        "command": shlex.join(
            [
                "python",
                "benchmarks/before_after.py",
                "BEFORE",
                "AFTER",
                f"--runs={options.runs}",
                f"--pairs={options.pairs}",
            ]
        ),
        "threads": os.environ.get("OMP_NUM_THREADS", os.cpu_count()),
        "pairs": options.pairs,
        "runs": options.runs,
        "load": [load, os.getloadavg()[0]],
        "cases": cases,
    }
    out = options.out or HERE / "results" / f"{record['date']}-before-after.json"
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(table(record) + "\n", encoding="utf-8")
    print(table(record))


if __name__ == "__main__":
    main()
