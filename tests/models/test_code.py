"""Code of the user's own by name: found, refused with one line, never run for the sake of a file."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rearec.data.batches import collate_histories
from rearec.errors import UserError
from rearec.models import ReaRecConfig
from rearec.models.code import load_backbone, made_by, source_of
from rearec.models.sasrec import SASRec
from rearec.reasoning import ReaRec

CODE = """
import helper_of_mine
from rearec.models.sasrec import SASRec

RAN = []
NUMBER = 3

def sasrec(config):
    import second_helper_of_mine
    RAN.append(config.dim)
    return SASRec(config)

class Factories:
    small = SASRec

def nothing(config):
    return None

def fails(config):
    raise KeyError("a\\nb")
"""
FILES = {
    "code_of_mine.py": CODE,
    "helper_of_mine.py": "",
    "second_helper_of_mine.py": "",
    "broken_code_of_mine.py": "import no_such_module_at_all",
    "leaving_code_of_mine.py": "raise SystemExit('bye')",
}
CONFIG = ReaRecConfig(9, backbone="code_of_mine:sasrec", dim=8, ffn=12, max_len=5)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with code in it, which no other test has imported."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    path = [*sys.path]
    yield tmp_path
    assert sys.path == path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.parametrize("name", ["code_of_mine:sasrec", "code_of_mine:Factories.small"])
def test_the_factory_gets_the_configuration_and_is_looked_for_in_the_current_directory(name: str) -> None:
    backbone = made_by(name, CONFIG, SASRec, "backbone")
    assert backbone.item_table().shape == (9, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_code_of_mine:f", "there is no module no_code_of_mine, neither in .* nor among the installed packages"),
        ("code_of_mine.part:f", r"importing code_of_mine.part failed|there is no module code_of_mine\.part"),
        (
            "broken_code_of_mine:f",
            "importing broken_code_of_mine failed with ModuleNotFoundError: No module named 'no_",
        ),
        ("leaving_code_of_mine:f", "importing leaving_code_of_mine failed with SystemExit: bye"),
        ("code_of_mine:gru", r"module code_of_mine \(.*code_of_mine.py\) has no 'gru'"),
        ("code_of_mine:NUMBER", "is a int, expected a function of the configuration"),
        ("code_of_mine:nothing", r"returned a NoneType, expected a rearec.models.sasrec.SASRec"),
        ("code_of_mine:fails", "failed for this configuration with KeyError: "),
    ],
)
def test_what_is_wrong_with_it_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"backbone {re.escape(name)}: {message}") as caught:
        made_by(name, CONFIG, SASRec, "backbone")
    assert "\n" not in str(caught.value)


def test_what_is_recorded_of_code() -> None:
    made_by("code_of_mine:sasrec", CONFIG, SASRec, "backbone")
    by_name = source_of("code_of_mine:sasrec")
    assert by_name["file"] is not None and Path(by_name["file"]).name == "code_of_mine.py"
    function = sys.modules["code_of_mine"].sasrec
    assert source_of(function) == source_of(functools.partial(function, CONFIG)) == by_name
    before = by_name["digest"]
    Path(by_name["file"]).write_text(CODE + "\n")
    assert source_of("code_of_mine:sasrec")["digest"] != before
    assert source_of("no_code_of_mine:f") == {"name": "no_code_of_mine:f", "file": None, "digest": None}


def test_a_stored_model_runs_no_code_unless_it_is_told_to(here: Path) -> None:
    torch.manual_seed(0)
    model = ReaRec(CONFIG, backbone=load_backbone(CONFIG)).eval()
    model.save_pretrained(here / "model")
    assert json.loads((here / "model" / "config.json").read_text())["backbone"] == "code_of_mine:sasrec"
    assert "`code_of_mine:sasrec`: with `trust_code=True` it is run" in (here / "model" / "README.md").read_text()
    del sys.modules["code_of_mine"]
    message = "its backbone is 'code_of_mine:sasrec', code of somebody's own; trust_code=True runs it, or give"
    with pytest.raises(UserError, match=message):
        ReaRec.from_pretrained(here / "model")
    assert "code_of_mine" not in sys.modules

    batch = collate_histories([[1, 2, 3], [4]], max_len=5)
    for loaded in (
        ReaRec.from_pretrained(here / "model", backbone=SASRec(CONFIG)),
        ReaRec.from_pretrained(here / "model", backbone="code_of_mine:sasrec"),
        ReaRec.from_pretrained(here / "model", trust_code=True),
    ):
        assert torch.equal(loaded(batch).states, model(batch).states)
    assert sys.modules["code_of_mine"].RAN == [8, 8]


def test_a_name_alone_makes_no_model() -> None:
    with pytest.raises(ValueError, match="backbone: got 'code_of_mine:sasrec', expected the backbone itself"):
        ReaRec(CONFIG)
    assert "code_of_mine" not in sys.modules
    with pytest.raises(ValueError, match="backbone: got 'sasrec', expected module:factory"):
        load_backbone(ReaRecConfig(9))
