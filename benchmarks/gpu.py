"""Builds, checks and measures the CUDA and Triton kernels on a machine with an NVIDIA GPU, in under ten minutes and
without a network: `python benchmarks/gpu.py`.

  build     installs this tree into a folder of its own, with kernels for this GPU; registers and spills of each
  tests     of attention, losses and retrieval, on the device
  sanitize  compute-sanitizer on attention in CUDA: memory errors, races in shared memory, synchronisation
  ceilings  how fast the device copies
  forward   one reasoning step: bandwidth; against naive PyTorch, SDPA and FlashAttention
  shared    the same with prefixes that many rows share
  training  three steps and their gradients; against naive PyTorch and SDPA; peak memory
  rollout   a whole model as one CUDA graph; against its kernels launched one by one, and with naive attention
  losses    in Triton, and their gradients: in matrix products; against naive and compiled PyTorch and fused losses;
            peak memory
  retrieval top-k and rank in Triton: bandwidth; against a matrix product and what PyTorch has to follow it

A stage that fails does not stop the later ones. The exit status is 1 if one failed; a missed target is no failure.
Results go to benchmarks/results/DATE-gpu-DEVICE.json, and a table is printed last.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from on_gpu import checks, report
from on_gpu.processes import Command, Processes

REPOSITORY = Path(__file__).resolve().parents[1]
CHECKS = ("build", "tests", "sanitize")
# Losses and retrieval last: what they compile and tune takes time, and nothing is to lack it for that.
MEASUREMENTS = ("ceilings", "forward", "shared", "training", "rollout", "losses", "retrieval")
STAGES = (*CHECKS, *MEASUREMENTS)
# Seconds at most; the measurements get what is left, and the checks leave them this much.
LIMITS = {"build": 200, "tests": 240, "sanitize": 150}
FOR_MEASUREMENTS = 240
PROBE_LIMIT = 120


class Run:
    """One run: its stages in order, their outcomes and the time that is left."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options = options
        self.chosen = [stage for stage in STAGES if options.only is None or stage in options.only]
        self.began = time.monotonic()
        self.stages: dict[str, report.Record] = {}
        self.site = work / "site"
        self.work = work
        imports = [self.site, REPOSITORY / "benchmarks", REPOSITORY / "tests" / "support"]
        paths = [*map(str, imports), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        if options.dry_run:
            variables["OMP_NUM_THREADS"] = "1"  # more only get into each other's way
        self.processes = Processes(work, work / "gpu.log", variables)
        self.machine: report.Record = {}
        self.built: report.Record = {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def look_at_machine(self) -> None:
        """Raises SystemExit where there is no GPU and this is no dry run."""
        done = self.processes.run(self._module("on_gpu.machine"), PROBE_LIMIT)
        if done.status != 0:
            raise SystemExit(f"gpu.py: {done.tail}")
        self.machine = json.loads(next(line for line in done.output.splitlines() if line.startswith("{")))

    def check(self, stage: str) -> None:
        arch = self.machine["device"]["arch"]
        if self.options.dry_run:
            self._print_commands(stage, arch)
            return
        begin = time.monotonic()
        limit = max(1.0, min(LIMITS[stage], self._left() - FOR_MEASUREMENTS))
        try:
            if stage == "build":
                shutil.rmtree(self.site, ignore_errors=True)  # rather nothing than what an earlier run built
                outcome = checks.build(self.processes, limit, self.site, arch)
            else:
                outcome = (checks.tests if stage == "tests" else checks.sanitize)(self.processes, limit)
        except Exception as error:  # ours, in reading what a tool said: the later stages go on
            outcome = {
                "status": "failed",
                "errors": [f"{type(error).__name__}: {error}"],
                "tail": traceback.format_exc(),
            }
        self._keep(stage, {"errors": []} | outcome | {"seconds": time.monotonic() - begin})

    def measure(self, stages: list[str]) -> None:
        """In one process after another: one that dies fails its stage, and the next one goes on with the later ones."""
        waiting = list(stages)
        while waiting:
            found = self.work / f"found-{waiting[0]}.jsonl"
            seconds = max(1.0, self._left())
            arguments = [*waiting, "--found", str(found), "--seconds", f"{0.98 * seconds - 5:.0f}"]
            ended: set[str] = set()
            try:
                done = self.processes.run(self._module("on_gpu.measure", *arguments), seconds)
            finally:  # also after an interruption
                ended |= self._read(found)
            while waiting and waiting[0] in ended:
                waiting.pop(0)
            if waiting:
                stage = waiting.pop(0)
                outcome = self.stages.get(stage, {"cases": [], "errors": []})
                outcome["errors"].append(f"the process that measures {done.ending}")
                self._keep(stage, outcome | {"status": "failed", "seconds": done.seconds, "tail": done.tail})

    def record(self) -> report.Record:
        return {
            "dry_run": self.options.dry_run,
            "date": datetime.date.today().isoformat(),
            "commit": self.options.commit or commit(),
            "command": shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
            "seconds": self.seconds,
            "passed": all(self.stages.get(stage, {"status": "failed"})["status"] != "failed" for stage in self.chosen),
            "machine": self.machine,
            **self.built,
            "stages": self.stages,
            "verdicts": report.verdicts(self.stages),
        }

    def _left(self) -> float:
        return self.options.seconds - self.seconds

    def _module(self, name: str, *arguments: str) -> Command:
        return Command([sys.executable, "-m", name, *arguments, *(["--dry-run"] if self.options.dry_run else [])])

    def _print_commands(self, stage: str, arch: str) -> None:
        if stage == "build":
            commands = [checks.build_command(self.site, arch)]
        elif stage == "tests":
            commands = list(checks.test_commands(self.work).values())
        else:
            commands = list(checks.sanitizer_commands(checks.find_sanitizer() or "compute-sanitizer").values())
        texts = [str(command) for command in commands]
        print("\n".join(f"{stage}: $ {text}" for text in texts))
        self._keep(stage, {"status": "printed", "seconds": 0.0, "errors": [], "commands": texts})

    def _read(self, found: Path) -> set[str]:
        """Takes in what was measured; returns the stages that were measured to their end."""
        ended = set()
        lines = found.read_text(encoding="utf-8").splitlines() if found.exists() else []
        for line in lines:
            try:
                entry: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:  # cut short when its process was stopped
                continue
            stage = entry.get("stage")
            if stage is None:
                self.built = entry
                continue
            # Failed until its end has come.
            outcome = self.stages.setdefault(stage, {"status": "failed", "seconds": 0.0, "errors": [], "cases": []})
            if "case" in entry:
                outcome["cases"].append(entry["case"])
            else:
                ended.add(stage)
                bad = any(case.get("error") or case.get("errors") for case in outcome["cases"])
                self._keep(stage, outcome | {"status": "failed" if bad else "passed", "seconds": entry["seconds"]})
        return ended

    def _keep(self, stage: str, outcome: report.Record) -> None:
        self.stages[stage] = outcome
        print(f"{stage}: {outcome['status']}, {outcome['seconds']:.0f} s", flush=True)
        if outcome.get("tail"):
            print(outcome["tail"], flush=True)


def commit() -> str | None:
    """Of the checkout, with "-dirty" if files differ from it; None where git does not know."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder of the json (default: benchmarks/results) and of the log")
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help="only these stages")
    parser.add_argument("--seconds", type=float, default=560, help="for the whole run (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="keep the build here, and use the one that is there without `build`")
    parser.add_argument("--commit", help="what to call this tree, where git cannot tell")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU, checks printed; needs --out")
    options = parser.parse_args(arguments)
    if options.dry_run and options.out is None:
        parser.error("--dry-run needs --out: its figures are no results")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("gpu.py: stopped"))
    with tempfile.TemporaryDirectory(prefix="rearec-gpu-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        run = Run(options, work)
        run.look_at_machine()
        out = (options.out or REPOSITORY / "benchmarks" / "results").resolve()
        path = out / report.file_name(run.record(), options.only)
        try:
            for stage in run.chosen:
                if stage in CHECKS:
                    run.check(stage)
                    report.write(run.record(), path)
            run.measure([stage for stage in run.chosen if stage in MEASUREMENTS])
        finally:  # what there is, also after an interruption
            report.write(run.record(), path)
            if options.out is not None:
                path.with_suffix(".log").write_bytes(run.processes.log.read_bytes())
        record = run.record()
    wrong = report.problems(record)
    print("\n".join(["", report.table(record), str(path), *(f"unexpected form: {problem}" for problem in wrong)]))
    return 0 if record["passed"] and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
