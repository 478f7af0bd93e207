"""The command line as a process: exit codes, one-line errors, json, overwriting, what the start imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from typer.testing import CliRunner

from rearec.cli.app import app

COMMANDS = ("demo", "download", "prepare", "embed", "train", "evaluate", "analyze", "reproduce", "recommend", "info")
SMALL = ("--dim", "16", "--ffn", "16", "--layers", "1", "--max-len", "8", "--epochs", "1", "--batch-size", "256")


def test_help_names_the_commands_and_no_heavy_library_is_imported(run_rearec: Any) -> None:
    result = run_rearec("--help")
    assert result.returncode == 0
    assert all(re.search(rf"\b{name}\b", result.stdout) for name in COMMANDS)
    script = (
        "import sys\n"
        "try:\n"
        "    from rearec.cli import main\n"
        "    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'lightning', 'matplotlib', 'polars', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy), file=sys.stderr)\n"
    )
    for arguments in (
        *(["--help"], ["train"], ["train", "--help"], ["train", "x"], ["prepare", "json"]),
        *(["analyze", "nowhere", "steps", "--out", "x"], ["analyze", "--help"]),
        *(["reproduce", "--help"], ["reproduce", "table2", "x", "--out", "y", "--methods", "cot"]),
        *(["evaluate", "nowhere"], ["recommend", "nowhere", "x"], ["embed", "x", "--pca", "-1"]),
    ):
        command = [sys.executable, "-c", script, *arguments]
        process = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert "HEAVY []" in process.stderr, (arguments, process.stderr)


USED = {
    **{name: {"--seed", "--device", "--threads"} for name in ("demo", "train", "analyze", "reproduce")},
    **{name: {"--device", "--threads"} for name in ("embed", "evaluate", "recommend", "info")},
    "prepare": {"--threads"},
    "download": set(),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options_and_shows_those_with_an_effect(name: str) -> None:
    words = set(CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert {"--json", "--debug"} <= words
    assert words & {"--seed", "--device", "--threads"} == USED[name]
    assert ("--force" in words) == (name in ("demo", "prepare", "embed", "train", "analyze", "reproduce", "recommend"))


def test_options_without_effect_are_accepted(run_rearec: Any) -> None:
    result = run_rearec("download", "--json", "--seed", "3", "--device", "cpu", "--threads", "1")
    assert result.returncode == 0 and "software" in json.loads(result.stdout)
    assert run_rearec("info", "--json", "--seed", "3").returncode == 0


def test_version_is_the_distributions(run_rearec: Any) -> None:
    assert run_rearec("--version").stdout == f"rearec {version('rearec')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["train"],
        ["train", "data", "--out", "run", "--method", "magic"],
        ["train", "data", "--out", "run", "--steps", "-1"],
        ["info", "--seed", str(2**63)],
        ["prepare", "xml", "file", "--out", "dir"],
        ["recommend", "run", "x", "-k", "0"],
    ],
)
def test_wrong_arguments_exit_with_2_and_no_traceback(arguments: list[str], run_rearec: Any) -> None:
    result = run_rearec(*arguments)
    assert result.returncode == 2
    assert result.stdout == "" and result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere"], "nowhere: no such folder; expected the RUN folder of a training"),
        (["recommend", "nowhere", "a"], "nowhere: no such folder; expected the RUN folder of a training"),
        (["recommend", "nowhere", "--input", "x"], "--input writes its answers to a file: say which with --output"),
        (["train", "nowhere", "--out", "run"], "nowhere: no such directory; expected a prepared dataset"),
        (["train", "nowhere", "--out", "run", "--resume", "--force"], "give one of them"),
        (["prepare", "json", "nowhere.json", "--out", "dir"], "nowhere.json"),
        (["prepare", "csv", "nowhere.csv", "--out", "dir"], "; csv files are the format 'table'"),
        (["info", "--device", "abacus"], "--device: got 'abacus', expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_user_errors_are_one_line_and_exit_with_2(
    arguments: list[str], message: str, run_rearec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_rearec(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(run_rearec: Any) -> None:
    result = run_rearec("evaluate", "nowhere", "--debug")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: nowhere")


def test_info_tells_versions_build_backends_threads_and_gpu(run_rearec: Any) -> None:
    result = run_rearec("info", "--json", "--threads", "1")
    assert result.returncode == 0, result.stderr
    info = json.loads(result.stdout)
    assert info["rearec"] == version("rearec")
    assert info["libraries"]["torch"] == version("torch")
    assert info["threads"] == 1
    assert "reference" in info["build"]["backends"]["cpu"]
    assert isinstance(info["build"]["cuda"], str)
    plain = run_rearec("info")
    assert plain.returncode == 0 and "backends" in plain.stdout


def test_the_script_is_installed() -> None:
    script = Path(sys.executable).parent / "rearec"
    assert os.access(script, os.X_OK)
    result = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.stdout == f"rearec {version('rearec')}\n"


@pytest.mark.parametrize("arguments", [["info", "--json"], ["info"], ["--help"]])
def test_a_standard_output_that_is_full_is_one_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "rearec", *arguments]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: standard output: cannot be written: No space left on device\n"


def test_a_backend_that_is_not_there_is_one_line(run_folder: Path, run_rearec: Any) -> None:
    result = run_rearec("recommend", run_folder, "item-001", "--device", "cpu", REAREC_BACKEND="abacus")
    assert result.returncode == 2
    assert result.stderr.startswith("error: REAREC_BACKEND: got 'abacus', expected one of ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "error", "commands"),
    [
        ("REAREC_DEBUG", "maybe", "REAREC_DEBUG must be 0 or 1, got 'maybe'", ("recommend", "evaluate", "train")),
        ("REAREC_TRITON_AUTOTUNE", "2", "REAREC_TRITON_AUTOTUNE must be 0 or 1, got '2'", ("evaluate",)),
        ("REAREC_CPU_CACHE_MB", "many", "REAREC_CPU_CACHE_MB must be a whole number of megabytes", ("recommend",)),
    ],
)
def test_a_wrong_environment_variable_is_one_line(
    variable: str,
    value: str,
    error: str,
    commands: tuple[str, ...],
    run_folder: Path,
    prepared: Path,
    tmp_path: Path,
    run_rearec: Any,
) -> None:
    arguments = {
        "recommend": (run_folder, "item-001"),
        "evaluate": (run_folder,),
        "train": (prepared, "--out", tmp_path / "run", *SMALL),
    }
    for command in commands:
        result = run_rearec(command, *arguments[command], "--device", "cpu", **{variable: value})
        assert result.returncode == 2
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: ") and error in last and "Traceback" not in result.stderr


def test_outputs_that_cannot_be_written_are_refused_by_their_name(
    run_folder: Path, source_file: Path, prepared: Path, tmp_path: Path, call_rearec: Any
) -> None:
    requests = tmp_path / "in.jsonl"
    requests.write_text('["item-001"]\n')
    nested = requests / "x"
    for arguments, message in (
        (("prepare", "json", source_file, "--out", nested), f"{nested}: cannot be written: {requests} is a file"),
        (("train", prepared, "--out", nested, *SMALL), f"{nested}: cannot be written: {requests} is a file"),
        (("demo", "--out", nested, "--json"), f"{nested}: cannot be written: {requests} is a file"),
        (
            ("recommend", run_folder, "--input", requests, "--output", tmp_path / "no" / "o"),
            f"{tmp_path / 'no' / 'o'}: cannot be written: there is no folder {tmp_path / 'no'}",
        ),
        (
            ("recommend", run_folder, "--input", requests, "--output", requests, "--force"),
            f"{requests}: --output is the file of --input",
        ),
    ):
        result = call_rearec(*arguments)
        assert result.returncode == 2
        assert result.stderr.splitlines()[-1].startswith(f"error: {message}"), result.stderr
    assert requests.read_text() == '["item-001"]\n'


@pytest.mark.parametrize("on_a_terminal", [True, False])
def test_an_interruption_is_a_line_of_its_own(on_a_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        # what a terminal shows of the keys
        sys.stderr.write("^C")
        raise KeyboardInterrupt

    monkeypatch.setattr("rearec.cli.info.device_of", interrupt)
    monkeypatch.setattr("rearec.cli.output.is_terminal", lambda: on_a_terminal)
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 130
    assert result.stderr.endswith("^C\ninterrupted\n" if on_a_terminal else "^Cinterrupted\n")
