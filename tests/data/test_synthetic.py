"""Generated data: the same for the same seed, of the promised shape, with the promised structure."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rearec.data import load_dataset
from rearec.data.synthetic import Planted, generate, paper_shaped, planted_theme
from rearec.errors import UserError


def tokens_of(dataset: Any) -> list[list[str]]:
    """The tokens of every sequence."""
    return [[dataset.item_ids[item] for item in dataset.sequence(s)] for s in range(dataset.num_sequences)]


def test_the_same_seed_gives_the_same_data() -> None:
    small = Planted(users=50)
    assert tokens_of(generate(3, planted=small)) == tokens_of(generate(3, planted=small))
    assert tokens_of(generate(3, planted=small)) != tokens_of(generate(4, planted=small))


def test_the_default_has_the_size_of_a_demonstration() -> None:
    dataset = generate(0)
    assert 1500 <= dataset.num_users <= 3000 and 300 <= dataset.num_items <= 1000
    assert len(dataset.rows("valid")) == len(dataset.rows("test")) == dataset.num_users
    assert 15 < dataset.statistics["average_length"] < 20


def test_each_user_begins_with_one_anchor_of_every_kind() -> None:
    for tokens in tokens_of(generate(1, planted=Planted(users=200, kinds=5))):
        assert sorted(token.split("-")[1] for token in tokens[:5]) == list("01234")
        assert all(token.startswith("anchor") for token in tokens[:5])
        assert all(token.startswith("item") for token in tokens[5:])
        assert len(tokens) >= 8


def test_without_noise_the_theme_follows_from_the_hops() -> None:
    structure = Planted(users=3000, kinds=3, anchors_per_kind=3, themes=5, items_per_theme=4, depths=(1, 2), noise=0)
    sequences = tokens_of(generate(5, planted=structure))
    # What an item and the user's anchors say together about the next theme.
    themes: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    needed: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    table: dict[str, dict[tuple[str, ...], str]] = defaultdict(dict)
    for tokens in sequences:
        anchors = tuple(sorted(tokens[:3]))
        for item, following in itertools.pairwise(tokens[3:]):
            themes[item, anchors].add(following.split("-")[1])
            table[item][anchors] = following.split("-")[1]
    assert all(len(found) == 1 for found in themes.values())
    # Of depth 1: one anchor decides. Of depth 2: none alone does.
    for item, by_anchors in table.items():
        for kind in range(3):
            decided: dict[str, set[str]] = defaultdict(set)
            for anchors, theme in by_anchors.items():
                decided[anchors[kind]].add(theme)
            if all(len(found) == 1 for found in decided.values()):
                needed[item].add((kind,))
    shallow = sum(bool(needed[item]) for item in table) / len(table)
    assert 0.1 < shallow < 0.7


def test_popularity_is_skewed_within_a_theme() -> None:
    counts = Counter(token for tokens in tokens_of(generate(2)) for token in tokens if token.startswith("item"))
    first = sum(count for token, count in counts.items() if token.endswith("-0"))
    last = sum(count for token, count in counts.items() if token.endswith("-23"))
    # Every sequence begins with an item drawn without skew.
    assert first > 8 * last


def test_a_first_order_chain_cannot_tell_the_theme() -> None:
    follows: dict[str, Counter[str]] = defaultdict(Counter)
    for tokens in tokens_of(generate(2)):
        for item, following in itertools.pairwise(tokens[4:]):
            follows[item][following.split("-")[1]] += 1
    hits = sum(max(themes.values()) for themes in follows.values())
    assert hits / sum(sum(themes.values()) for themes in follows.values()) < 0.4


def test_planted_data_can_be_written_and_is_not_overwritten(tmp_path: Path) -> None:
    dataset = generate(0, planted=Planted(users=30), out=tmp_path / "d")
    assert isinstance(dataset.items, np.memmap)
    assert tokens_of(load_dataset(tmp_path / "d")) == tokens_of(generate(0, planted=Planted(users=30)))
    with pytest.raises(UserError, match="already holds"):
        generate(0, planted=Planted(users=30), out=tmp_path / "d")
    generate(1, planted=Planted(users=30), out=tmp_path / "d", force=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 0}, "users must be at least 1, got 0"),
        ({"kinds": 1}, "kinds must be at least 2, got 1"),
        ({"depths": ()}, "depths must be shares"),
        ({"depths": (0.5, -0.1)}, "depths must be shares"),
        ({"mean_length": 2}, "mean_length must be at least 3, got 2"),
        ({"noise": 1.5}, r"noise must be in \[0, 1\], got 1.5"),
    ],
)
def test_structures_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Planted(**change)


@pytest.mark.parametrize(("users", "items", "length"), [(5000, 1200, 6.0), (800, 600, 34.0), (3, 2, 3.5)])
def test_paper_shaped_data_has_the_shape_asked_for(users: int, items: int, length: float) -> None:
    dataset = paper_shaped(users, items, length, seed=1)
    assert (dataset.num_users, dataset.num_items) == (users, items)
    if users > 100:
        assert dataset.statistics["average_length"] == pytest.approx(length, rel=0.02)
    lengths = np.diff(dataset.offsets)
    assert lengths.min() >= 3 and len(dataset.rows("test")) == users
    if users > 100:
        # Skewed as real sets are: most users below the mean, a few far above it, few items with most interactions.
        assert np.median(lengths) < 0.8 * length and lengths.max() > 5 * length
        counts = np.sort(np.bincount(dataset.items))[::-1]
        assert counts[: items // 5].sum() > 0.4 * counts.sum()
    again = paper_shaped(users, items, length, seed=1)
    np.testing.assert_array_equal(again.items, dataset.items)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 6.0), "must be at least 1"),
        ((5, 5, 3.0), "mean_length must be above 3, got 3.0"),
        ((2, 5000, 6.0), "num_items is 5000, but there are only"),
    ],
)
def test_shapes_that_cannot_be_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paper_shaped(*arguments)


@pytest.mark.parametrize("depths", [(1.0,), (0.0, 1.0), (0.3, 0.4, 0.3)])
def test_the_theme_that_follows_by_rule_is_that_of_the_data(depths: tuple[float, ...]) -> None:
    planted = Planted(users=40, noise=0.0, depths=depths)
    data = generate(5, planted=planted)
    for user in range(data.num_users):
        first, end = data.offsets[user], data.offsets[user + 1]
        names = [data.item_ids[item] for item in data.items[first:end]]
        for place in range(planted.kinds + 1, len(names)):
            theme = planted_theme(names[:place], 5, planted=planted)
            assert names[place].startswith(f"item-{theme}-"), (user, place)
