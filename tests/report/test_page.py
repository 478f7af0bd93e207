"""Markdown pages: rounded tables with unrounded csv, figures, the page written last."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hostile import SHOWN
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from rearec.errors import UserError
from rearec.report.page import Markdown, Page, escape


def test_a_page_holds_its_parts_in_order_with_files_beside_it(tmp_path: Path) -> None:
    page = Page(tmp_path / "new" / "folder", "steps", "By step")
    page.text("  First words. ")
    rows = [{"method": "prl", "ndcg": 1 / 3, "rows": 12345}, {"method": "a|b", "ndcg": None, "extra": True}]
    page.table(rows, "numbers", caption="What it is.")
    page.figure(Figure(), "drawing", "What is seen.")
    assert not (tmp_path / "new").exists()
    assert page.write() == tmp_path / "new" / "folder" / "steps.md"
    assert page.files == [tmp_path / "new" / "folder" / name for name in ("numbers.csv", "drawing.png", "steps.md")]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(p.name for p in page.files)
    expected = [
        "# By step",
        "First words.",
        "What it is.",
        "| method | ndcg | rows | extra |\n| :-- | --: | --: | :-- |\n"
        "| prl | 0.3333 | 12,345 | – |\n| a\\|b | – | – | yes |",
        "[numbers.csv](numbers.csv)",
        "![drawing](drawing.png)",
        "What is seen.",
    ]
    assert (tmp_path / "new" / "folder" / "steps.md").read_text() == "\n\n".join(expected) + "\n"
    assert (tmp_path / "new" / "folder" / "drawing.png").read_bytes().startswith(b"\x89PNG")


def test_the_csv_is_not_rounded_and_the_standard_error_stands_in_the_cell_of_its_value(tmp_path: Path) -> None:
    page = Page(tmp_path, "page", "Title")
    values = [{"mrr": 1 / 3, "mrr_se": 2 / 30, "slow_se": 12.345}, {"mrr": np.float64(2 / 3), "mrr_se": None}]
    page.table(values, "numbers")
    page.write()
    with (tmp_path / "numbers.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["mrr"]) for row in read] == [1 / 3, 2 / 3]
    assert [row["mrr_se"] for row in read] == [str(2 / 30), ""]
    assert "| mrr | slow_se |\n| --: | --: |\n| 0.3333 ± 0.0667 | 12.35 |\n| 0.6667 | – |" in page.write().read_text()


@pytest.mark.parametrize(
    ("formats", "shown", "beside"),
    [
        (["svg"], "svg", []),
        (["pdf", "svg", "png"], "svg", ["pdf", "png"]),
        (["pdf"], None, ["pdf"]),
        (["png"], "png", []),
    ],
)
def test_figures_are_written_in_every_format_and_shown_in_one(
    formats: list[str], shown: str | None, beside: list[str], tmp_path: Path
) -> None:
    page = Page(tmp_path, "page", "Title", formats=formats)
    page.figure(Figure(figsize=(2, 1)), "small", "What is seen.")
    text = page.write().read_text()
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(f"small.{f}" for f in formats), "page.md"])
    for each in formats:
        assert (tmp_path / f"small.{each}").read_bytes().startswith(begins[each])
    assert (f"![small](small.{shown})" in text) == (shown is not None) and text.count("![") == (shown is not None)
    assert all(f"[small.{each}](small.{each})" in text for each in beside)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    page.write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("formats", [["gif"], ["png", "PDF"], []])
def test_other_formats_are_refused(formats: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"format of figures: got .* expected some of png, svg, pdf"):
        Page(tmp_path, "page", "Title", formats=formats)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([1.0, 0.9938], ["1.0000", "0.9938"]),
        ([1.0000001, 0.5], ["1.0000", "0.5000"]),
        ([5.0, 0.05], ["5.000", "0.050"]),
        ([12.345, None, 7.0], ["12.35", "–", "7.00"]),
        ([1234.5, 2.0], ["1,234.5", "2.0"]),
        ([3, 0.25], ["3", "0.2500"]),
    ],
)
def test_the_numbers_of_a_column_have_equal_digits(
    values: list[float | None], shown: list[str], tmp_path: Path
) -> None:
    page = Page(tmp_path, "page", "Title")
    page.table([{"x": value} for value in values])
    assert page.markdown.splitlines()[-len(values) :] == [f"| {each} |" for each in shown]


def test_figures_are_150_dots_per_inch(tmp_path: Path) -> None:
    page = Page(tmp_path, "page", "Title")
    page.figure(Figure(figsize=(2, 1)), "small", "")
    page.write()
    header = (tmp_path / "small.png").read_bytes()[16:24]
    assert (int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")) == (300, 150)


@pytest.mark.parametrize(("value", "shown"), [(-0.00456, "-0.0046"), (99.994, "99.99"), (1234.56, "1,234.6"), (7, "7")])
def test_numbers_are_rounded_by_their_size(value: float, shown: str, tmp_path: Path) -> None:
    page = Page(tmp_path, "page", "Title")
    page.table([{"x": value}])
    assert f"| {shown} |" in page.write().read_text()


def test_names_must_be_file_names_of_their_own(tmp_path: Path) -> None:
    page = Page(tmp_path, "page", "Title")
    page.table([{"x": 1}], "numbers")
    with pytest.raises(ValueError, match=r"already has a file 'numbers\.csv'"):
        page.table([{"x": 1}], "numbers")
    with pytest.raises(ValueError, match="letters, digits"):
        page.figure(Figure(), "../elsewhere", "")
    with pytest.raises(ValueError, match="at least one row"):
        page.table([])


def test_a_part_that_cannot_be_written_leaves_no_page(tmp_path: Path) -> None:
    page = Page(tmp_path / "out", "page", "Title")
    page.table([{"x": 1}], "numbers")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "numbers.csv").mkdir()
    with pytest.raises(UserError, match=r"numbers\.csv: cannot be written"):
        page.write()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["numbers.csv"]


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UserError, match="file"):
            Page(folder, "page", "Title").write()


def parts(markdown: str) -> list[tuple[str, str]]:
    """What a reader of Markdown with tables makes of it: the kind of each part, and its text where it has one."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    flat = [child for token in tokens for child in (token.children if token.type == "inline" else [token]) or []]
    return [(token.type, token.content) for token in flat]


def texts(markdown: str) -> list[str]:
    return [content for kind, content in parts(markdown) if kind == "text"]


@pytest.mark.parametrize(("text", "shown"), SHOWN.items(), ids=range(len(SHOWN)))
def test_a_page_shows_any_text_as_it_is(text: str, shown: str, tmp_path: Path) -> None:
    page = Page(tmp_path, "page", text)
    page.text(f"- {escape(text)}\n- a {escape(text)}: **b**")
    page.table([{text: text, "plain": 1, "marked": Markdown("**x**")}], "numbers")
    page.code(f"run {text} ```` now")
    other = Page(tmp_path, "other", "T")
    other.text("- T\n- a T: **b**")
    other.table([{"T": "T", "plain": 1, "marked": Markdown("**x**")}], "numbers")
    other.code("run T ```` now")
    kinds, others = ([kind for kind, _ in parts(each.markdown) if kind != "text"] for each in (page, other))
    assert kinds == others
    heading, first, second, _, _, column, _, _, cell, *_ = texts(page.markdown)
    assert (heading, first, second, column, cell) == (shown, shown, f"a {shown}: ", shown, shown)
    assert ("fence", f"run {shown} ```` now\n") in parts(page.markdown)
    page.write()
    with (tmp_path / "numbers.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [[text, "plain", "marked"], [text, "1", "**x**"]]
