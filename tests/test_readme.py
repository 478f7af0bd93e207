"""The README is short, its links and its commands exist; test_newcomer.py runs what it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL_BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"@[A-Z]+@|TODO|TBD", README)


def test_it_is_read_in_a_minute() -> None:
    assert len(README.splitlines()) <= 130


def test_its_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("https://")]
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    # results are no part of a source distribution
    assert [link for link in missing if not link.startswith("benchmarks/results/") or (ROOT / ".git").exists()] == []


@pytest.mark.parametrize(
    "command", [line for block in SHELL_BLOCKS for line in block.splitlines() if line[:7] == "rearec "]
)
def test_every_command_of_the_readme_has_its_options(command: str, call_rearec: Any) -> None:
    name = command.split()[1]
    done = call_rearec(name, "--help")
    assert done.returncode == 0
    text = re.sub(r"[^\w-]+", " ", done.stdout).split()
    for option in re.findall(r"(?<= )--?[a-z][\w-]*", command):
        assert option in text, f"{option} is no option of rearec {name}"
