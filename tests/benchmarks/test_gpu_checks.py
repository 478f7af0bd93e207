"""What benchmarks/gpu.py makes of builds, tests, sanitizers, processes and contenders, those that fail above all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import gpu
import naive
import pytest
import torch
from on_gpu import checks, compiler_log, losses, machine, report, sanitized, timing
from on_gpu.cases import cases
from on_gpu.processes import Command, Finished, Processes
from on_gpu.sanitized import DTYPES, errors
from on_gpu.sizes import DRY

pytestmark = pytest.mark.filterwarnings("ignore:.*does not serve torch.float16")


def test_a_process_is_stopped_at_its_time_limit(tmp_path: Path) -> None:
    processes = Processes(tmp_path, tmp_path / "log", {"NAME": "there"})
    program = "import os, time; print(os.environ['NAME'], flush=True); time.sleep(100)"
    begin = time.monotonic()
    slow, quick = processes.run_together(
        [Command([sys.executable, "-c", program]), Command([sys.executable, "-c", "raise SystemExit(3)"])], 3
    )
    assert time.monotonic() - begin < 50
    assert slow.status is None and slow.output == "there\n" and "time limit" in slow.ending
    assert quick.status == 3
    assert "there" in (tmp_path / "log").read_text() and "status 3" in (tmp_path / "log").read_text()


def test_the_machine_is_described_before_anything_is_built() -> None:
    blocked = "import runpy, sys; sys.modules['rearec_kernels'] = None; sys.argv[1:] = ['--dry-run'];"
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked} runpy.run_module('on_gpu.machine', run_name='__main__')"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(gpu.__file__).parent)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["device"]["arch"] == "90a"


def test_a_measuring_process_that_dies_fails_its_stage_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
        import json, os, sys
        stages, found = sys.argv[1 : sys.argv.index("--found")], sys.argv[sys.argv.index("--found") + 1]
        with open(found, "w") as out:
            for stage in stages:
                out.write(json.dumps({"stage": stage, "case": {"name": "first", "errors": {}}}) + "\\n")
                if stage == "forward":
                    out.write('{"stage": "forward", "ca')
                    out.flush()
                    os.abort()
                out.write(json.dumps({"stage": stage, "seconds": 1.0}) + "\\n")
    """
    fake = tmp_path / "fake.py"
    fake.write_text(textwrap.dedent(program), encoding="utf-8")
    monkeypatch.setattr(gpu.Run, "_module", lambda self, name, *rest: Command([sys.executable, str(fake), *rest]))
    stages = ["ceilings", "forward", "training"]
    run = gpu.Run(gpu.parse(["--dry-run", "--out", str(tmp_path), "--only", *stages]), tmp_path)
    run.measure(stages)
    assert {stage: outcome["status"] for stage, outcome in run.stages.items()} == {
        "ceilings": "passed",
        "forward": "failed",
        "training": "passed",
    }
    assert len(run.stages["forward"]["cases"]) == 1 and "ended with status -6" in run.stages["forward"]["errors"][0]
    assert run.record()["passed"] is False


def test_compiler_logs(tmp_path: Path) -> None:
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
    first, second = compiler_log.kernels([log])
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
        compiler_log.kernels([log])
    log.write_text("")
    assert compiler_log.kernels([log]) == []


def test_results_of_the_tests(tmp_path: Path) -> None:
    cases_of = {
        "test_a[cuda-0.0]": "",
        "test_a[shape0-cuda]": "",
        "test_b[cuda]": "<failure/>",
        "test_c[cuda]": "<skipped/>",
        "test_d[shape0-triton-dtype0]": "",
        "test_e[triton]": "<skipped/>",
        "test_cuda": "",
    }
    cases_xml = "".join(f'<testcase classname="m" name="{n}">{inside}</testcase>' for n, inside in cases_of.items())
    results = tmp_path / "results.xml"
    results.write_text(f"<testsuites><testsuite>{cases_xml}</testsuite></testsuites>", encoding="utf-8")
    outcome: dict[str, Any] = {"counts": {}, "failed": [], "on_device": {"cuda": 0, "triton": 0}}
    checks._read_results(results, outcome)
    assert outcome == {
        "counts": {"passed": 4, "failure": 1, "skipped": 2},
        "failed": ["m::test_b[cuda]"],
        "on_device": {"cuda": 2, "triton": 1},
    }


@pytest.mark.parametrize(("backends", "status"), [(("cuda", "triton"), "passed"), (("cuda", "cpu"), "failed")])
def test_the_tests_must_run_each_backend_on_the_device(
    backends: tuple[str, str], status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
    commands = {
        tmp_path / f"{i}.xml": Command(
            [sys.executable, "-c", program, f"{i}.xml", f"<testsuite><testcase name='test_a[{backend}]'/></testsuite>"]
        )
        for i, backend in enumerate(backends)
    }
    monkeypatch.setattr(checks, "test_commands", lambda folder: commands)
    outcome = checks.tests(Processes(tmp_path, tmp_path / "log", {}), 100)
    assert outcome["status"] == status and outcome["counts"] == {"passed": 2}
    assert outcome["on_device"] == {"cuda": 1, "triton": backends.count("triton")}
    assert outcome["errors"] == ([] if status == "passed" else ['no test of backend "triton" passed'])


CLEAN = {"memcheck": "= ERROR SUMMARY: 0 errors", "racecheck": "= RACECHECK SUMMARY: 0 hazards displayed (0 errors)"}
PLANTED = "= Invalid __global__ read\n= at attention_forward_kernel\n= ERROR SUMMARY: 3 errors"


@pytest.mark.parametrize(
    ("tool", "status", "output", "complaint"),
    [
        ("memcheck", 0, CLEAN["memcheck"], None),
        ("racecheck", 0, CLEAN["racecheck"], None),
        ("memcheck", 9, "= ERROR SUMMARY: 2 errors", "2 found"),
        ("racecheck", 9, "= RACECHECK SUMMARY: 1 hazard displayed (1 error)", "1 found"),
        ("synccheck", 1, CLEAN["memcheck"], "nothing found, but the program ended with status 1"),
        ("memcheck", 0, "Device not supported", "without a summary"),
        ("racecheck", None, "", "time limit without a summary"),
        ("out of bounds", 9, PLANTED, None),
        ("out of bounds", 0, CLEAN["memcheck"], "was not found"),
        ("out of bounds", 9, "= ERROR SUMMARY: 1 error", "was not found"),
    ],
)
def test_verdict_on_a_sanitizer(tool: str, status: int | None, output: str, complaint: str | None) -> None:
    done = Finished(status, output, 1.0)
    got = checks._complaint(tool, done, checks._found(tool, done))
    assert got is None if complaint is None else complaint in str(got)


def test_program_for_the_sanitizers_runs_as_the_script_starts_it(tmp_path: Path) -> None:
    run = gpu.Run(gpu.parse(["--dry-run", "--out", str(tmp_path)]), tmp_path)
    command = checks.sanitizer_commands("compute-sanitizer")["memcheck"]
    program = command.arguments[command.arguments.index(sys.executable) :]
    done = run.processes.run(Command([*program, "--device", "cpu"]), 100)
    assert done.status == 0 and "problems, 0 wrong" in done.output, done.output


@pytest.mark.parametrize("dtype", DTYPES)
def test_program_for_the_sanitizers_notices_wrong_results(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, device = (3, 7, 5, 2, 2, 32, 3, 1), torch.device("cpu")
    error, allowed = errors(shape, dtype, device, dropout_p=0.4)
    assert 0 < error <= allowed
    right = sanitized.results
    monkeypatch.setattr(sanitized, "results", lambda *x: [*right(*x)[:-1], right(*x)[-1] * (1 + 2 * allowed)])
    error, allowed = errors(shape, dtype, device, dropout_p=0.4)
    assert error > allowed


def test_commands_name_files_that_exist(tmp_path: Path) -> None:
    commands = checks.test_commands(tmp_path)
    listed = [argument for command in commands.values() for argument in command.arguments]
    files = [Path(argument) for argument in listed if argument.endswith(".py")]
    assert all(path.is_file() for path in files)
    assert {checks.TESTS / name for name in (*checks.ATTENTION_TESTS, *checks.CATALOG_TESTS)} <= set(files)
    assert len(set(files)) == len(files)
    assert all(command.variables["TRITON_INTERPRET"] == "0" for command in commands.values())
    assert (checks.REPOSITORY / "setup.py").is_file()
    assert [machine.arch_of(capability) for capability in ((8, 0), (9, 0), (10, 0))] == ["80", "90a", "100"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", gpu.commit() or "0" * 40)


# --- contenders ---


def _case(stage: str, start: str, clock: timing.Clock | None = None) -> dict[str, Any]:
    chosen = next(case for case in cases(stage, clock or timing.CpuClock(), DRY) if case.name.startswith(start))
    return {"name": chosen.name} | chosen.measure(0.0)


@pytest.mark.parametrize(
    ("stage", "start", "function", "who"),
    [
        ("losses", "ensemble", "ensemble_loss", "naive"),
        ("losses", "InfoNCE", "info_nce", "naive"),
        ("retrieval", "rank", "rank", "mm + count"),
    ],
)
def test_a_loss_or_rank_that_disagrees_is_an_error(
    stage: str, start: str, function: str, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(naive, function)
    monkeypatch.setattr(naive, function, lambda *x: 1.1 * right(*x))
    found = _case(stage, start)
    assert "differs from ours" in found["errors"][who] and who not in found["calls"]["median_ms"]


def test_items_that_are_not_the_best_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    right = naive.topk
    monkeypatch.setattr(naive, "topk", lambda *x: (right(*x)[0], right(*x)[1].flip(1)))
    assert "differs from ours" in _case("retrieval", "top-")["errors"]["mm + topk"]


def test_a_contender_that_does_not_fit_into_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 TiB.")

    monkeypatch.setattr(naive, "ensemble_loss", too_large)
    found = _case("losses", "ensemble")
    assert found["errors"] == {} and found["out_of_memory"] == {"naive": "OutOfMemoryError: CUDA out of memory."}
    assert set(found["calls"]["median_ms"]) == {"ours", "product"} and found["calls"]["targets"] == []
    assert any("naive, does not fit: OutOfMemoryError" in line for line in report._case_lines(found))


def test_a_loss_that_cannot_be_captured_is_judged_by_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> timing.Replay:
        raise RuntimeError("not permitted when a stream is capturing")

    clock = timing.CpuClock()
    monkeypatch.setattr(clock, "capture", broken)
    found = _case("losses", "cross-entropy", clock)
    assert found["errors"] == {} and "replays" not in found and "ours" in found["not_captured"]
    assert found["calls"]["targets"] and found["products"]["verdict"]
    assert list(report._wrong_case(found, report.CASE["losses"], "losses")) == []
    assert any("products" in line and " calls " in line for line in report._case_lines(found))
    assert "cannot be captured" in _case("training", "R", clock)["errors"]["ours"]


def test_fused_losses_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> losses.FusedLoss:
        raise AttributeError("nothing of that name")

    monkeypatch.setattr(losses, "FUSED", {"theirs": find})
    inputs = losses.Inputs(losses.LossShape(3, 1, 7, 8, "bf16"), torch.device("cpu"), 0)
    contenders, absent = losses.cross_entropy([inputs], compiled=True)
    assert set(contenders) == {"ours", "naive", "torch.compile"}
    assert absent == {"theirs": "not importable: AttributeError: nothing of that name"}


def test_tf32_is_allowed_to_plain_pytorch_only_there() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    seen: list[str] = []

    def loss(s: losses.Inputs) -> torch.Tensor:
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        return (s.hidden.sum() + s.table.sum()) * 1.0

    for precision in ("tf32", "fp32"):
        shape = losses.LossShape(3, 1, 7, 8, precision)
        losses._plain([losses.Inputs(shape, torch.device("cpu"), 0)], loss)[0]()
    assert seen == ["tf32", before] and torch.backends.cuda.matmul.fp32_precision == before
