"""The README's examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import PATIENCE

from rearec.models.config import BACKBONES, METHODS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
SHELL_BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"@[A-Z]+@|TODO|TBD", README)


@pytest.mark.parametrize(("heading", "names"), [("backbone", BACKBONES), ("method", METHODS)])
def test_the_tables_have_every_backbone_and_method(heading: str, names: tuple[str, ...]) -> None:
    table = re.search(rf"^\| {heading} \|.*\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert table is not None
    first_cells = [row.split("|")[1] for row in table[1].splitlines()[1:]]
    assert re.findall(r"`(\w+)`", " ".join(first_cells)) == list(names)


def test_the_drop_in_call_computes_what_it_replaces() -> None:
    before = next(block for block in PYTHON_BLOCKS if "past_keys, k]" in block)
    after = next(block for block in PYTHON_BLOCKS if "ReasoningCache.from_prefix" in block)
    torch.manual_seed(0)
    rows, slots, heads, width = 4, 6, 2, 8
    first_real_slot = torch.tensor([0, 2, 5, 6])
    names = {
        "torch": torch,
        "past_keys": torch.randn(rows, slots, heads, width),
        "past_values": torch.randn(rows, slots, heads, width),
        "k": torch.randn(rows, heads, width),
        "v": torch.randn(rows, heads, width),
        "q": torch.randn(rows, heads, width),
        "K": 1,
        "scale": width**-0.5,
        "first_real_slot": first_real_slot,
        "mask": torch.where(torch.arange(slots + 1) >= first_real_slot[:, None], 0.0, float("-inf"))[:, None],
    }
    old, new = dict(names), dict(names)
    old["k"], old["v"] = names["k"][:, None], names["v"][:, None]
    exec(before, old)
    exec(after, new)
    torch.testing.assert_close(new["out"], old["out"])


def test_the_model_example_runs(run_folder: Path) -> None:
    code = next(block for block in PYTHON_BLOCKS if "Recommender" in block).replace('"run"', repr(str(run_folder)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", [line for block in SHELL_BLOCKS for line in block.splitlines() if line[:7] == "rearec "]
)
def test_every_command_of_the_readme_has_its_options(command: str) -> None:
    name = command.split()[1]
    done = subprocess.run(
        [sys.executable, "-m", "rearec.cli", name, "--help"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0
    text = re.sub(r"[^\w-]+", " ", done.stdout).split()
    for option in re.findall(r"(?<= )--?[a-z][\w-]*", command):
        assert option in text, f"{option} is no option of rearec {name}"
