"""``--help``: nothing cut or too wide at any width, headings, and completion in a shell."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys

import pytest
from patience import PATIENCE
from typer.main import get_command
from typer.testing import CliRunner

from rearec.cli.app import PANELS, app

COMMANDS = ["", *(command.callback.__name__ for command in app.registered_commands if command.callback)]


def help_of(command: str, width: int) -> str:
    # typer's own runner has one width
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setenv("COLUMNS", str(width))
        get_command(app).main([*command.split(), "--help"], prog_name="rearec", standalone_mode=False)
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_every_width_and_cuts_nothing(command: str, width: int) -> None:
    text = help_of(command, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text and not re.search(r"[a-z]\.\.\.$", text, flags=re.MULTILINE)
    assert text.split()[:2] == ["Usage:", "rearec"]
    words = set(text.split())
    found = get_command(app) if not command else get_command(app).commands[command]  # type: ignore[attr-defined]
    shown = [
        option for parameter in found.params if not getattr(parameter, "hidden", False) for option in parameter.opts
    ]
    assert {option for option in shown if option.startswith("--")} <= {word.rstrip(",") for word in words}
    # nothing of a type checker's or of a number that nobody needs
    assert not words & {"<str>", "<int", "<path>", "0<=x<=9223372036854775807"}


def test_without_a_command_the_help_is_shown() -> None:
    result = CliRunner().invoke(app, [], prog_name="rearec")
    asked = CliRunner().invoke(app, ["--help"], prog_name="rearec")
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.rstrip() == asked.stdout.rstrip()
    assert "Usage: rearec" in result.stderr


def test_commands_stand_under_their_headings() -> None:
    text = help_of("", 100)
    places = [text.index(f"\n{heading}:") for heading in PANELS]
    assert places == sorted(places)
    for heading, end in zip(PANELS, [*places[1:], text.index("\nOptions:")], strict=True):
        section = text[text.index(f"\n{heading}:") : end]
        assert [line.split()[0] for line in section.splitlines() if re.match(r"  \w", line)] == [*PANELS[heading]]


def test_a_settings_help_says_whose_it_is() -> None:
    text = help_of("train", 100)
    for heading in ("Model", "Backbones that read texts", "Objective", "Training", "Every command"):
        assert f"\n{heading}:\n" in text
    assert re.search(r"--alpha X +prl: ", text) and re.search(r"--kl-weight X +erl: ", text)


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        ("rearec ev", 1, {"evaluate"}),
        ("rearec train data --method ", 4, {"base", "naive", "rpe", "erl", "prl"}),
        ("rearec train data --backbone s", 4, {"sasrec"}),
        ("rearec prepare ", 2, {"amazon2023", "json", "lines", "recbole", "sasrec", "table", "yelp"}),
        ("rearec evaluate --items", 2, {"--items-by"}),
    ],
)
def test_a_shell_completes_commands_options_and_words(words: str, place: int, expected: set[str]) -> None:
    script = "import sys; sys.argv = ['rearec']; from rearec.cli import main; main()"
    variables = {"_REAREC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    process = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **variables},
    )
    assert process.returncode == 0, process.stderr
    assert set(process.stdout.split()) >= expected
    if words[-1] != " ":
        assert all(word.startswith(words.split()[-1]) for word in process.stdout.split())


def test_the_completion_of_a_shell_can_be_shown() -> None:
    script = "import sys; sys.argv = ['rearec', '--show-completion', 'bash']; from rearec.cli import main; main()"
    variables = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    process = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **variables},
    )
    assert process.returncode == 0, process.stderr
    assert "_REAREC_COMPLETE=complete_bash" in process.stdout
