"""The paper's datasets from files in the formats of their sources, with every row worked out by hand."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rearec.data import PrepareOptions, SequenceDataset, prepare
from rearec.data.preparation import presets
from rearec.data.preparation.presets import UnexpectedCounts, choose_options
from rearec.data.tables import delimited, json_lines
from rearec.data.tables.files import line_blocks
from rearec.errors import UserError

Write = Callable[[str, str], Path]
Rows = list[tuple[str, tuple[str, ...], str]]
RowsOf = Callable[[SequenceDataset, str], Rows]

START = 1_600_000_000_000
VALID, TEST = 1_628_643_414_042, 1_658_002_729_837

Review = tuple[str, str, float, int]
LEFT_OUT = "; --drop-incomplete leaves such rows out"


def amazon_reviews() -> list[Review]:
    """(user, item, rating, time in ms), users one after the other but not in time order.

    Of the 5-core remain u1 to u7: u8 has four items once X, which only he has, is gone.
    """
    reviews: list[Review] = []

    def add(user: str, items: str, start: int = START) -> None:
        reviews.extend((user, item, 5.0, start + step) for step, item in enumerate(items))

    # A second review of A, first in the file and last in time: dropped, the earlier one stays.
    reviews.append(("u1", "A", 1.0, TEST + 5))
    add("u1", "A")
    # Rated 2: no row of its own, but part of the histories after it.
    reviews.append(("u1", "B", 2.0, START + 1))
    add("u1", "CDE", START + 2)
    reviews.append(("u1", "F", 5.0, VALID))
    add("u2", "ABCDE", VALID - 5)
    reviews.append(("u2", "F", 4.0, TEST))
    add("u3", "ABCDE")
    reviews += [("u3", "F", 3.0, VALID + 1), ("u3", "G", 5.0, VALID + 2)]
    # D before C in the file at the same time: this order stays.
    reviews += [("u4", "D", 4.0, START + 2), ("u4", "C", 4.0, START + 2)]
    add("u4", "AB")
    add("u4", "EFG", START + 3)
    add("u5", "ABCDEFG")
    add("u6", "ABCDG")
    add("u7", "GABCD")
    add("u8", "ABCDX")
    return reviews


# G has no title: every row that involves it goes. F has a blank one, which the official code takes for a title.
TITLES = {"A": "An A", "B": "a B", "C": "C, the third", "D": "D", "E": "É", "F": "", "G": None, "X": "X"}

EXPECTED: dict[str, Rows] = {
    "train": [
        *[("u1", tuple("ABCDE"[:n]), "ABCDE"[n]) for n in (2, 3, 4)],
        *[(user, tuple("ABCDE"[:n]), "ABCDE"[n]) for user in ("u2", "u3") for n in (1, 2, 3, 4)],
        *[("u4", tuple("ABDCEF"[:n]), "ABDCEF"[n]) for n in (1, 2, 3, 4, 5)],
        *[("u5", tuple("ABCDEF"[:n]), "ABCDEF"[n]) for n in (1, 2, 3, 4, 5)],
        *[("u6", tuple("ABCD"[:n]), "ABCD"[n]) for n in (1, 2, 3)],
    ],
    "valid": [("u1", tuple("ABCDE"), "F")],
    "test": [("u2", tuple("ABCDE"), "F")],
}


def raw_review(review: Review) -> str:
    """A line of the raw file, with the fields that nobody reads."""
    user, item, rating, time = review
    rest: dict[str, Any] = {"title": "Great", "text": 'It "works",\nin two lines é', "images": [{"small": "x"}]}
    rest |= {"asin": item.lower(), "helpful_vote": 0, "verified_purchase": True}
    return json.dumps({"rating": rating, **rest, "parent_asin": item, "user_id": user, "timestamp": time})


def meta_file() -> str:
    """The meta file, all fields of some items null or empty."""
    lines = [
        {"main_category": "Video Games", "title": title, "features": [], "price": None, "parent_asin": item}
        for item, title in TITLES.items()
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def five_core_files(header: bool) -> dict[str, str]:
    """What the authors of the data made of the reviews: earliest per pair, 5-core, split, each with its history."""
    parts = {"train": "", "valid": "", "test": ""}
    if header:
        parts = dict.fromkeys(parts, "user_id,parent_asin,rating,timestamp,history\n")
    for user in ("u1", "u2", "u3", "u4", "u5", "u6", "u7"):
        history: list[str] = []
        for _, item, rating, time in sorted((r for r in amazon_reviews() if r[0] == user), key=lambda r: r[3]):
            if item in history:
                continue
            part = "test" if time >= TEST else "valid" if time >= VALID else "train"
            parts[part] += f"{user},{item},{rating},{time},{' '.join(history)}\n"
            history.append(item)
    return parts


def check_amazon(dataset: SequenceDataset, rows_of: RowsOf) -> None:
    for split, rows in EXPECTED.items():
        assert sorted(rows_of(dataset, split)) == sorted(rows), split
    assert dict(zip(dataset.item_ids, dataset.item_titles or [], strict=True)) == {
        item: TITLES[item] or None for item in "ABCDEF"
    }


@pytest.fixture(params=[None, 90], ids=["one block", "blocks of 90 bytes"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in blocks of this size."""
    if request.param:
        for module in (json_lines, delimited):
            monkeypatch.setattr(module, "line_blocks", functools.partial(line_blocks, size=request.param))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_amazon_from_the_raw_files(suffix: str, write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    reviews = write(f"Video_Games.jsonl{suffix}", "\n".join(map(raw_review, amazon_reviews())))
    meta = write(f"meta_Video_Games.jsonl{suffix}", meta_file())
    dataset = prepare("amazon2023", [reviews, meta], tmp_path / "out", preset="video-games")
    check_amazon(dataset, rows_of)
    # u7 met G first and has no row; u8 and X left with the 5-core.
    assert dataset.user_ids == ["u1", "u2", "u3", "u4", "u5", "u6"]
    assert dataset.options["preset"] == "video-games" and dataset.options["split"] == "timestamp"
    named = prepare("amazon2023", [reviews], tmp_path / "named", preset="video-games", titles=meta)
    assert named.fingerprint == dataset.fingerprint


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
def test_amazon_from_the_five_core_files(header: bool, write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    files = [write(f"Video_Games.{name}.csv.gz", text) for name, text in five_core_files(header).items()]
    meta = write("meta_Video_Games.jsonl", meta_file())
    check_amazon(prepare("amazon2023", [meta, *files], tmp_path / "out", preset="video-games"), rows_of)


def test_single_options_override_a_preset(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    reviews = write("r.jsonl", "\n".join(map(raw_review, amazon_reviews())))
    options: dict[str, Any] = {"preset": "baby", "missing_titles": "keep", "min_target_rating": 1, "core": 1}
    dataset = prepare("amazon2023", [reviews], tmp_path / "out", **options)
    assert "X" in dataset.item_ids and dataset.item_titles is None
    assert ("u1", ("A",), "B") in rows_of(dataset, "train")
    with pytest.raises(UserError, match="the preset 'baby' drops items without a title: give the meta file too"):
        prepare("amazon2023", [reviews], tmp_path / "more", preset="baby")


def test_a_faulty_review_is_named_by_its_row_whatever_its_block(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = list(map(raw_review, amazon_reviews()))
    faults = {
        '{"user_id": "u", "parent_asin": "A", "rating": "x", "timestamp": 5}': "column 'rating' is 'x', not a number",
        '{"user_id": "u", "parent_asin": "A", "rating": 5.0}': f"column 'timestamp' has no value{LEFT_OUT}",
        '{"user_id": null, "parent_asin": "A", "timestamp": 5}': f"column 'user_id' has no value{LEFT_OUT}",
        '{"user_id": "u", "parent_asin"': "not json: Expecting ':' delimiter at character 31",
    }
    for size in (200, 1 << 20):
        monkeypatch.setattr(json_lines, "line_blocks", functools.partial(line_blocks, size=size))
        for fault, message in faults.items():
            path = write("r.jsonl", "\n".join([*lines[:20], "", fault, *lines[20:]]))
            with pytest.raises(UserError) as caught:
                prepare("amazon2023", [path], tmp_path / "out")
            assert str(caught.value) == f"{path}: row 22: {message}"
    monkeypatch.setattr(delimited, "line_blocks", functools.partial(line_blocks, size=60))
    path = write("r.csv", five_core_files(True)["train"] + "u9,A,5.0,7,B,C\n")
    with pytest.raises(UserError, match=r"row 41: 6 fields, but the first row has 5"):
        prepare("amazon2023", [path], tmp_path / "out")


def test_unusual_but_valid_reviews_are_read_alike(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    # Blank lines, numbers as text, a time with a fraction of zero: line by line instead of by polars.
    lines = [raw_review(review) for review in amazon_reviews()]
    lines[3] = lines[3].replace('"timestamp": 16', '"timestamp": "16').replace("}", '"}')
    lines[3] = lines[3].replace('[{"small": "x""}]', "[]")
    assert json.loads(lines[3])["timestamp"].isdigit()
    reviews = write("r.jsonl", "\r\n\r\n".join(lines) + "\r\n")
    dataset = prepare("amazon2023", [reviews, write("meta.jsonl", meta_file())], tmp_path / "o", preset="video-games")
    check_amazon(dataset, rows_of)


def test_items_alone_and_two_files_of_items_are_refused(write: Write, tmp_path: Path) -> None:
    meta, other = write("meta.jsonl", meta_file()), write("b.jsonl", meta_file())
    with pytest.raises(UserError, match="holds items, not interactions; give the reviews as well"):
        prepare("amazon2023", [meta], tmp_path / "out")
    with pytest.raises(UserError, match=r"b\.jsonl: holds items, not interactions, as .*; give one file of items"):
        prepare("amazon2023", [meta, other], tmp_path / "out")
    reviews = write("r.jsonl", "\n".join(map(raw_review, amazon_reviews())))
    with pytest.raises(UserError, match="a second file of items beside --titles"):
        prepare("amazon2023", [reviews, meta], tmp_path / "out", titles=other)


DAY_ZERO = datetime(2020, 1, 1)


def yelp_files(write: Write) -> list[Path]:
    """20 users who visit each of 20 businesses once, user u beginning with business u; and what is filtered away.

    Days 0, 4, ..., 68 the first 18 visits but one, day 80 the next, day 85 and day 95 the last two; u00 ends on day 100
    and visits b00 a second time on day 50. So 80 % of the time span is day 80, 90 % is day 90.
    """
    days = [*range(0, 68, 4), 80, 85, 95]
    visits = []
    for user in range(20):
        for place, day in enumerate(days):
            visits.append((f"u{user:02}", f"b{(user + place) % 20:02}", 4.0 + place % 2, day))
    visits[19] = (*visits[19][:3], 100)
    visits.append(("u00", "b00", 5.0, 50))
    # Three stars are not above 3; without them u20 has too few; b20 has but u20.
    visits += [("u20", f"b{place:02}", 3.0 if place == 7 else 5.0, 200) for place in range(21)]
    visits += [("u20", "b20", 3.0, 300)]
    reviews = ""
    for number, (user, place, stars, day) in enumerate(visits):
        date = str(DAY_ZERO + timedelta(days=day))
        line = {"review_id": f"r{number}", "user_id": user, "business_id": place, "stars": stars, "useful": 0}
        reviews += json.dumps({**line, "text": "Nice\n", "date": date}) + "\n"
    business = "".join(
        json.dumps({"business_id": f"b{n:02}", "name": f"Café {n}", "city": "Tampa", "attributes": None}) + "\n"
        for n in range(21)
    )
    return [
        write("yelp_academic_dataset_review.json", reviews),
        write("yelp_academic_dataset_business.json", business),
    ]


@pytest.mark.usefixtures("blocks")
def test_yelp_from_the_raw_files(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    dataset = prepare("yelp", yelp_files(write), tmp_path / "out")
    assert dataset.user_ids == [f"u{n:02}" for n in range(20)] and dataset.num_items == 20
    assert dataset.item_titles == [f"Café {int(token[1:])}" for token in dataset.item_ids]
    rows = {split: rows_of(dataset, split) for split in ("train", "valid", "test")}
    # 5 to 17 visits before a train row: what falls on 80 % of the span is before it; u00 has one visit more.
    assert [len(rows[split]) for split in rows] == [20 * 13 + 1, 20, 20]
    order = [f"b{n % 20:02}" for n in range(3, 23)]
    assert [row for row in rows["train"] if row[0] == "u03"] == [
        ("u03", tuple(order[:n]), order[n]) for n in range(5, 18)
    ]
    assert [row for row in rows["valid"] if row[0] == "u03"] == [("u03", tuple(order[:18]), order[18])]
    assert [row for row in rows["test"] if row[0] == "u03"] == [("u03", tuple(order[:19]), order[19])]
    repeated = [f"b{n:02}" for n in range(13)] + ["b00"] + [f"b{n:02}" for n in range(13, 20)]
    assert [row for row in rows["test"] if row[0] == "u00"] == [("u00", tuple(repeated[:20]), "b19")]
    assert dataset.statistics["repeated_interactions"] == 1


def test_yelp_options_override_the_filters_of_the_paper(write: Write, tmp_path: Path) -> None:
    reviews, _ = yelp_files(write)
    dataset = prepare("yelp", [reviews], tmp_path / "out", core=1, min_rating=1, split="leave-one-out")
    assert dataset.num_users == 21 and dataset.item_titles is None
    three = [write(f"{part}.json", reviews.read_text()) for part in ("train", "valid", "test")]
    with pytest.raises(UserError, match="the split 'given' is not for the format 'yelp'"):
        prepare("yelp", three, tmp_path / "more", split="given")


def test_counts_that_are_expected(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = yelp_files(write)
    with pytest.raises(UnexpectedCounts) as caught:
        prepare("yelp", files, tmp_path / "out", expect=True)
    assert caught.value.differences == [
        "users: expected 13,083, got 20 (-13,063)",
        "items: expected 10,697, got 20 (-10,677)",
        "rows: expected 443,807, got 301 (-443,506)",
        "train rows: expected 385,589, got 261 (-385,328)",
        "valid rows: expected 49,353, got 20 (-49,333)",
        "test rows: expected 8,865, got 20 (-8,845)",
    ]
    assert str(caught.value).startswith("6 of 6 counts differ from the published ones of 'yelp'")
    assert not (tmp_path / "out").exists()
    counts = {"users": 20, "items": 20, "rows": 301, "train_rows": 261, "valid_rows": 20, "test_rows": 20}
    made = presets._PRESETS["yelp"]
    monkeypatch.setitem(presets._PRESETS, "yelp", replace(made, published=counts))
    assert prepare("yelp", files, tmp_path / "out", expect=True).num_users == 20
    monkeypatch.setitem(presets._PRESETS, "yelp", replace(made, published={**counts, "test_rows": 21}))
    with pytest.raises(UnexpectedCounts, match="1 of 6 counts differ"):
        prepare("yelp", files, tmp_path / "more", expect=True)


@pytest.mark.parametrize(
    ("preset", "train", "evaluation", "train_rows"),
    [("video-games", 1, 5, 519_685), ("baby", 1, 5, 752_224), ("software", 10, 5, 151_731), ("cds", 10, 10, 503_241)],
)
def test_the_presets_are_those_of_the_paper(preset: str, train: int, evaluation: int, train_rows: int) -> None:
    options, split = choose_options("amazon2023", PrepareOptions(preset=preset), False)
    assert (split, options.valid_from, options.test_from) == ("timestamp", str(VALID), str(TEST))
    assert (options.core, options.duplicates, options.known_items) == (5, "first", True)
    assert (options.min_train_history, options.min_eval_history) == (train, evaluation)
    assert options.min_target_rating is not None and 3 < options.min_target_rating < 3.001
    assert presets._PRESETS[preset].published["train_rows"] == train_rows
    options, split = choose_options("amazon2023", PrepareOptions(preset=preset), True)
    assert split == "given" and options.core is None and options.valid_from is None


def test_shares_of_the_time_span_are_exact(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    # 80 % of 0 .. 10^16 + 5 is 8 * 10^15 + 4 exactly, which float64 does not hold.
    moments = [0, 8 * 10**15 + 4, 8 * 10**15 + 5, 9 * 10**15 + 4, 9 * 10**15 + 5, 10**16 + 5]
    path = write("t.csv", "user_id,item_id,timestamp\n" + "".join(f"u,{n},{time}\n" for n, time in enumerate(moments)))
    dataset = prepare("table", [path], tmp_path / "o", split="time-span", valid_from=0.8, test_from="9/10")
    assert [[row[2] for row in rows_of(dataset, split)] for split in ("train", "valid", "test")] == [
        ["1"],
        ["2", "3"],
        ["4", "5"],
    ]
