"""The commands of docs/datasets.md, each run on a small file written as its publisher does."""

from __future__ import annotations

import random
import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
from published_files import NAMES, PUBLISHED
from typer.testing import CliRunner

from rearec.cli.app import app
from rearec.data import load_dataset

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"


def recipes() -> dict[str, str]:
    """The command of each heading."""
    found = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return {
        heading: command.replace("\\\n", " ")
        for heading, text in found
        for command in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    }


WITH_TITLES = ("MovieLens 100K", "MovieLens 1M", "MovieLens 10M", "MovieLens 20M, 25M, 32M and latest")
# Those whose command drops rows.
DROPPING = ("RetailRocket", "Taobao", "MIND", "REES46", "Last.fm 1K")


def test_every_recipe_has_a_file_here_and_every_file_a_recipe() -> None:
    assert list(recipes()) == list(PUBLISHED)
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("```sh") == len(PUBLISHED)
    for heading, part in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE):
        assert ("Dropped: nothing" in " ".join(part.split())) == (heading not in DROPPING), heading


@pytest.mark.parametrize("heading", PUBLISHED)
def test_the_command_reads_the_file_as_it_is_shipped(
    heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = PUBLISHED[heading]
    files = write(random.Random(heading))
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(recipes()[heading])
    assert program == "rearec"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)

    expected: dict[str, list[str]] = defaultdict(list)
    for user, item, _ in sorted(read(files), key=lambda event: event[2]):
        expected[user].append(item)
    dataset = load_dataset(tmp_path / arguments[arguments.index("--out") + 1])
    found = {
        dataset.user_ids[dataset.sequence_user[number]]: [dataset.item_ids[item] for item in dataset.sequence(number)]
        for number in range(dataset.num_sequences)
    }
    assert found == dict(expected)
    assert len(found) == 7
    assert (dataset.item_titles is not None) == (heading in WITH_TITLES)
    if dataset.item_titles is not None:
        titles = dict(zip(dataset.item_ids, dataset.item_titles, strict=True))
        assert titles == {item: NAMES[int(item) % 4] for item in dataset.item_ids}
    assert ("dropped" in dataset.source["findings"]["suspicious"]) == (heading in DROPPING)
