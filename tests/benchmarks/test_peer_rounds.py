"""benchmarks/peers.py runs contenders in turn, each in a process and an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contenders.libraries import environments, rounds
from contenders.libraries.entries import ENTRIES, REQUIREMENTS, Entry
from contenders.libraries.task import Sizes, Task


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Contenders that note their turn in a file: `contenders.libraries.run` of a made-up tree."""
    package = tmp_path / "tree" / "contenders" / "libraries"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "run.py").write_text(
        "import json, os, sys, time\n"
        "task = json.loads(sys.argv[1])\n"
        f"open({str(tmp_path / 'turns')!r}, 'a').write(task['contender'] + '\\n')\n"
        "print(json.dumps({'versions': {'it': '1'}}), flush=True)\n"
        "if task['contender'] == 'slow': time.sleep(60)\n"
        "if task['contender'] == 'broken': sys.exit('it broke')\n"
        "if task['contender'] == 'trains':\n"
        "    [print(json.dumps({'epoch': {'epoch': n}})) for n in (1, 2)]\n"
        f"    print(json.dumps({{'lists': {{'': {str(tmp_path / 'lists.npy')!r}}}}}))\n"
        "    sys.exit(print(json.dumps({'done': True})))\n"
        "print(json.dumps({'answers': {'users': 4, 'cpu_s': 2.0, 'wall_s': 2.0, "
        "'threads': os.environ['OMP_NUM_THREADS']}}))\n"
    )
    monkeypatch.setattr(rounds, "ROOT", tmp_path / "tree")
    np.save(tmp_path / "lists.npy", np.array([[3]]))
    yield tmp_path / "turns"


def test_contenders_alternate_and_a_failure_stops_none(script: Path, task: Task) -> None:
    entries = {name: Entry(name) for name in ("one", "broken", "two")}
    said: list[str] = []
    pythons = dict.fromkeys(entries, Path(sys.executable))
    outcome = rounds.alternate(entries, pythons, task, rounds=3, timeout=30, say=said.append)
    # in turn, back and forth; who failed is not asked again
    assert script.read_text().split() == ["one", "broken", "two", "two", "one", "one", "two"]
    assert outcome.failed == {"broken": "exit status 1: it broke"}
    assert {name: len(records) for name, records in outcome.records.items()} == {"one": 3, "two": 3, "broken": 1}
    assert outcome.records["one"][0]["answers"]["threads"] == "1"
    assert outcome.records["broken"] == [{"versions": {"it": "1"}}]  # what it had said before
    assert "one: 2 users per CPU-second" in said and "broken: failed: exit status 1: it broke" in said


def test_what_does_not_end_is_ended(script: Path, task: Task) -> None:
    entries = {"slow": Entry("slow")}
    outcome = rounds.alternate(entries, {"slow": Path(sys.executable)}, task, rounds=2, timeout=1.5)
    assert outcome.failed == {"slow": "not done after 2 s"} and script.read_text() == "slow\n"


def test_an_environment_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path, requirements: object) -> Path:
        raise RuntimeError("-m pip install: no such package")

    monkeypatch.setattr(rounds, "interpreter", fails)
    pythons, failed = rounds.install(ENTRIES, tmp_path)
    assert {*failed} == {name for name, entry in ENTRIES.items() if entry.environment}
    assert failed["RePlay SasRec"] == "not installed: -m pip install: no such package"
    assert pythons["rearec base"] == Path(sys.executable)


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def note(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command[1:])
        (tmp_path / "it" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "it" / "bin" / "python").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environments.subprocess, "run", note)
    for requirements in (["a==1"], ["a==1"], ["a==2"]):
        assert environments.interpreter(tmp_path / "it", requirements) == tmp_path / "it" / "bin" / "python"
    assert [command[-1] for command in commands if "pip" in command] == ["a==1", "a==2"]


def test_every_library_is_pinned_with_the_torch_of_the_others() -> None:
    torch = {next(r for r in requirements if r.startswith("torch==")) for requirements in REQUIREMENTS.values()}
    assert len(torch) == 1
    assert {e.environment for e in ENTRIES.values()} == {None, *REQUIREMENTS}
    assert all("==" in requirements[0] for requirements in REQUIREMENTS.values())


def test_what_is_done_is_told_and_not_done_again(script: Path, task: Task, tmp_path: Path) -> None:
    entries = {name: Entry(name) for name in ("trains", "broken")}
    pythons = dict.fromkeys(entries, Path(sys.executable))
    told: list[tuple[set[str], set[str]]] = []

    def done(outcome: rounds.Outcome) -> None:
        told.append(({*outcome.records}, {*outcome.failed}))

    for _ in range(2):
        outcome = rounds.alternate(*(entries, pythons, task), rounds=1, timeout=30, work=tmp_path / "work", done=done)
    # what trained is not asked again, what broke is
    assert script.read_text().split() == ["trains", "broken", "broken"]
    assert told[:2] == [({"trains"}, set()), ({"trains", "broken"}, {"broken"})]
    assert outcome.records["trains"][0]["curve"] == [{"epoch": 1}, {"epoch": 2}]
    assert outcome.records["trains"][0]["lists"][""].tolist() == [[3]]
    # another task is another matter
    rounds.alternate(*(entries, pythons, replace(task, epochs=7)), rounds=1, timeout=30, work=tmp_path / "work")
    assert script.read_text().split()[-2:] == ["trains", "broken"]


def test_a_recipe_changes_sizes_and_options(script: Path, task: Task, tmp_path: Path) -> None:
    name = "RecTools SASRec, recipe"
    entry = replace(ENTRIES[name], module="trains")
    rounds.alternate({name: entry}, {name: Path(sys.executable)}, task, rounds=1, timeout=30, work=tmp_path / "work")
    asked = Task.from_json((tmp_path / "work" / "RecTools-SASRec-recipe" / "task.json").read_text())
    assert (asked.sizes.layers, asked.sizes.users, asked.sizes.rows) == (1, 128, task.sizes.rows)
    assert asked.options["loss"] == "sampled_softmax"


def test_every_recipe_says_where_it_is_documented() -> None:
    recipes = {name: entry.recipe for name, entry in ENTRIES.items() if entry.recipe}
    assert {name.split()[0] for name in recipes} == {"rearec", "RecTools", "RePlay", "RecBole"}
    assert all(
        any(place in one.documented for place in ("github.com", "docs/", "repository")) for one in recipes.values()
    )
    assert all({*one.sizes} <= {entry.name for entry in fields(Sizes)} for one in recipes.values())
    assert {ENTRIES[name].kinds for name in recipes} == {("quality",)}
