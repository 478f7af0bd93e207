"""Real data sets beside the repository, where they are: the counts that their sources state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rearec.data import PairBatches, prepare

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data: {DATA} is not there")

BEAUTY = [f"amazon2023_all_beauty_5core/All_Beauty.{part}.csv.gz" for part in ("train", "valid", "test")]
SCIENTIFIC = [f"scientific_emb512/Scientific.{part}.inter.gz" for part in ("train", "valid", "test")]
MOVIES = [f"ml-1m_collm/{part}.tsv.gz" for part in ("train", "valid", "test")]
CHECK_INS = ["foursquare_nyc_tail/NYC_val.csv.gz", "foursquare_nyc_tail/NYC_test.csv.gz"]

# format, files, options, (users, items, interactions), (train, valid, test rows)
SETS: dict[str, tuple[str, list[str], dict[str, Any], tuple[int, int, int], tuple[int, int, int]]] = {
    "ml-100k": (
        "recbole",
        ["ml-100k/ml-100k.inter.gz"],
        {"titles": DATA / "ml-100k/ml-100k.item.gz", "title_column": "movie_title"},
        (943, 1682, 100_000),
        (97_171, 943, 943),
    ),
    "ml-100k, rating 4 and 5-core": (
        "recbole",
        ["ml-100k/ml-100k.inter.gz"],
        {"min_rating": 4, "core": 5},
        (938, 1008, 54_413),
        (51_599, 938, 938),
    ),
    "scientific": (
        "json",
        ["amazon2018_scientific_text/Scientific.inter.json.gz"],
        {"titles": DATA / "amazon2018_scientific_text/Scientific.item.json.gz"},
        (8317, 4344, 58_492),
        (33_541, 8317, 8317),
    ),
    "scientific, pre-split": ("recbole", SCIENTIFIC, {}, (2928, 1585, 19_712), (10_928, 2928, 2928)),
    "all beauty, given": (
        "amazon2023",
        BEAUTY,
        {"titles": DATA / "amazon2023_all_beauty_5core/item_titles.tsv.gz"},
        (253, 356, 2535),
        (1776, 253, 253),
    ),
    "all beauty, anew": ("amazon2023", BEAUTY, {"split": "leave-one-out"}, (253, 356, 2535), (1776, 253, 253)),
    "beauty": ("lines", ["amazon2014_beauty/Beauty.txt.gz"], {}, (22_363, 12_101, 198_502), (131_413, 22_363, 22_363)),
    "video": (
        "sasrec",
        ["amazon2014_video_sasrec/Video.txt.gz"],
        {},
        (31_013, 23_715, 287_107),
        (194_292, 30_901, 30_901),
    ),
    "grocery": (
        "table",
        ["amazon2014_grocery_rechorus/train.csv.gz"],
        {"separator": "\t", "timestamp_column": "time"},
        (14_681, 8687, 121_892),
        (77_849, 14_681, 14_681),
    ),
    "ml-1m": (
        "table",
        MOVIES,
        {"user_column": "uid", "item_column": "iid"},
        (838, 3255, 51_623),
        (33_151, 10_401, 7331),
    ),
    "check-ins": (
        "table",
        CHECK_INS,
        {
            "item_column": "POI_id",
            "timestamp_column": "UTC_time",
            "split": "timestamp",
            "valid_from": "2012-12-20",
            "test_from": "2013-01-10",
        },
        (620, 3248, 20_713),
        (9686, 3565, 6950),
    ),
}


@pytest.mark.parametrize(("format", "files", "options", "counts", "rows"), SETS.values(), ids=SETS.keys())
def test_counts_are_those_that_the_source_states(
    format: str,
    files: list[str],
    options: dict[str, Any],
    counts: tuple[int, int, int],
    rows: tuple[int, int, int],
    tmp_path: Path,
) -> None:
    dataset = prepare(format, [DATA / file for file in files], tmp_path / "out", **options)
    assert (dataset.num_users, dataset.num_items, dataset.num_interactions) == counts
    assert tuple(len(dataset.rows(split)) for split in ("train", "valid", "test")) == rows
    titles = dataset.item_titles
    assert titles is None or all(titles)
    batches = PairBatches(dataset, "train", batch_rows=512, max_len=50, shuffle=True)
    assert sum(batch.num_rows for batch in batches) == rows[0]


def test_given_and_new_leave_one_out_agree_where_the_given_split_is_leave_one_out(tmp_path: Path) -> None:
    sources = [DATA / file for file in BEAUTY]
    given = prepare("amazon2023", sources, tmp_path / "given")
    anew = prepare("amazon2023", sources, tmp_path / "anew", split="leave-one-out")
    decoded = []
    for dataset in (given, anew):
        tokens = np.asarray(dataset.item_ids)[dataset.targets("test")]
        users = np.asarray(dataset.user_ids)[dataset.sequence_user[dataset.rows("test")[:, 0]]]
        decoded.append(dict(zip(users.tolist(), tokens.tolist(), strict=True)))
    assert decoded[0] == decoded[1]


@pytest.mark.parametrize(
    "options",
    [
        {"min_target_rating": 4, "min_eval_history": 5, "known_items": True, "missing_titles": "drop"},
        {"preset": "video-games"},
    ],
    ids=["option by option", "preset"],
)
def test_the_filters_of_the_paper_run_on_the_amazon_files(options: dict[str, Any], tmp_path: Path) -> None:
    titles = DATA / "amazon2023_all_beauty_5core/item_titles.tsv.gz"
    dataset = prepare("amazon2023", [DATA / file for file in BEAUTY], tmp_path / "out", titles=titles, **options)
    assert tuple(len(dataset.rows(split)) for split in ("train", "valid", "test")) == (1510, 126, 113)
    assert all(int(dataset.rows(split)[:, 1].min()) >= 5 for split in ("valid", "test"))
