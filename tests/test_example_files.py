"""The files of examples/ run as they stand, in an empty folder without a network, and print what they promise.

Some see a quarter of the sample shop's customers: what they promise is no matter of how many there are.
"""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path

import pytest

import rearec.data

pytestmark = pytest.mark.usefixtures("few_choices", "quick_figures")

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = sorted(path.name for path in EXAMPLES.glob("*.py"))


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What an example prints."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.fixture
def fewer_customers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sample_events` gives every fourth customer's events."""
    import polars as pl

    events = rearec.data.sample_events().filter(pl.col("user") % 4 == 0)
    monkeypatch.setattr(rearec.data, "sample_events", lambda: events)


def numbers(pattern: str, text: str) -> list[float]:
    """The numbers in the group of a pattern, wherever it is found."""
    return [float(found) for found in re.findall(pattern, text)]


def test_the_shop_gets_offers_with_titles_that_beat_popularity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run("01_shop.py", tmp_path, monkeypatch, capsys)
    model, popularity, *others = numbers(r"NDCG@20 (\.?\d[\d.]*)", printed)
    assert len(others) == 3
    assert model > popularity > 0
    assert (tmp_path / "shop-model" / "model.safetensors").is_file()
    assert len(re.findall(r"^\S+  .*\w.*  -?[\d.]+$", printed, re.MULTILINE)) == 3  # the offers to one customer


@pytest.mark.usefixtures("fewer_customers")
def test_two_methods_are_compared_with_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run("02_compare_two_methods.py", tmp_path, monkeypatch, capsys)
    assert len(numbers(r"seed \d: validation NDCG@20 ([\d.]+)", printed)) == 4
    assert "prl-0" in printed and "base-1" in printed


@pytest.mark.usefixtures("fewer_customers")
def test_titles_become_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run("03_text_features_offline.py", tmp_path, monkeypatch, capsys)
    assert re.search(r"^\d+ titles as vectors of \d+ by (word counts|a language model)$", printed, re.MULTILINE)
    assert numbers(r"unisrec NDCG@20 ([\d.]+)", printed)[0] > 0


def test_an_index_finds_what_recommend_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run("04_faiss.py", tmp_path, monkeypatch, capsys)
    (share,) = numbers(r"([\d.]+)% of the items are those of recommend", printed)
    assert share >= 99


def test_the_kernel_is_a_drop_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run("05_kernel_dropin.py", tmp_path, monkeypatch, capsys)
    assert printed.startswith("outputs and 6 gradients agree")


@pytest.mark.usefixtures("fewer_customers")
def test_an_objective_of_ones_own_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run("06_own_objective.py", tmp_path, monkeypatch, capsys)
    assert numbers(r"smoothed steps: NDCG@20 ([\d.]+)", printed)[0] > 0
    terms = [float(each) for each in re.findall(r"[\d.]+", printed.partition("last step by epoch:")[2])]
    assert len(terms) == 3 and terms[-1] < terms[0]


@pytest.mark.usefixtures("fewer_customers")
def test_a_search_ends_with_the_best_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run("07_optuna.py", tmp_path, monkeypatch, capsys)
    assert printed.startswith("3 trials; best 0.") and "looked at once" in printed


def test_every_example_is_listed_and_tested() -> None:
    this = Path(__file__).read_text(encoding="utf-8")
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    page = (EXAMPLES.parent / "docs" / "help" / "examples.md").read_text(encoding="utf-8")
    assert len(FILES) == 7
    for name in FILES:
        assert f'run("{name}"' in this and f"[{name}]({name})" in readme and f"`{name}`" in page
