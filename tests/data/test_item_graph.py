"""Item graphs against counting by hand and by brute force; nothing of valid or test rows enters."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from repeating_data import dataset_of, repeating_dataset

from rearec.data import GraphOptions, ItemGraph, SequenceDataset, prepare
from rearec.errors import UserError

PLAIN = {"shrinkage": 0.0, "popularity": 0.0, "reverse": 0.0}


def trained(*sequences: list[int], num_items: int = 4) -> SequenceDataset:
    """These are the training parts; a validation and a test item follow in each."""
    return dataset_of([[*items, 0, 1] for items in sequences], num_items)


def edges(graph: ItemGraph) -> dict[int, dict[int, float]]:
    """Neighbours and weights of each item that has any, in their order."""
    found = {item: [array.tolist() for array in graph.edges(item)] for item in range(graph.num_items)}
    return {item: dict(zip(*pair, strict=True)) for item, pair in found.items() if pair[0]}


def approx(expected: dict[int, dict[int, float]]) -> dict[int, Any]:
    return {item: pytest.approx(of_item, rel=1e-6) for item, of_item in expected.items()}


def test_window_decay_reverse_and_shrinkage() -> None:
    graph = ItemGraph.of(trained([0, 1, 2]), window=2, decay=0.5, reverse=0.25, shrinkage=1.0, popularity=0.0)
    expected = {
        0: {1: 1 / 2.5, 2: 0.5 / 2.5},
        1: {2: 1 / 2.25, 0: 0.25 / 2.25},
        2: {1: 0.25 / 1.375, 0: 0.125 / 1.375},
    }
    assert edges(graph) == approx(expected)
    assert [list(of_item) for of_item in edges(graph).values()] == [[1, 2], [2, 0], [1, 0]]
    assert edges(ItemGraph.of(trained([0, 1, 2]), window=1, **PLAIN)) == approx({0: {1: 1}, 1: {2: 1}})


def test_the_popularity_of_the_neighbour_counts_against_it() -> None:
    graph = ItemGraph.of(trained([0, 1], [0, 1], [0, 2]), window=1, **(PLAIN | {"popularity": 1.0}))
    assert edges(graph) == approx({0: {1: 2 / (3 * 3), 2: 1 / (3 * 2)}})


def test_cooccurrence_counts_users_and_is_a_cosine() -> None:
    dataset = trained([0, 1, 0], [0, 1, 2], [2, 0])
    graph = ItemGraph.of(dataset, kind="cooccurrence", window=10)
    both = 2 / math.sqrt(3 * 2)
    assert edges(graph) == approx({0: {1: both, 2: both}, 1: {0: both, 2: 0.5}, 2: {0: both, 1: 0.5}})
    near = ItemGraph.of(dataset, kind="cooccurrence", window=1)
    assert edges(near)[0] == pytest.approx({1: both, 2: both / 2}, rel=1e-6)


def test_swing_counts_pairs_of_users_the_less_they_have_in_common_the_more() -> None:
    graph = ItemGraph.of(trained([0, 1, 0], [1, 0], [2, 0, 1], [2, 3]), kind="swing", **PLAIN)
    # of three users who have 0 and 1 each pair has no more in common; 2 is in two histories that share nothing else
    assert edges(graph) == approx({0: {1: 1}, 1: {0: 1}})
    half, third = 0.5 / 3, 1 / 6**0.5 / 3
    shrunk = ItemGraph.of(
        trained([0, 1, 0], [1, 0], [2, 0, 1], [2, 3]), kind="swing", shrinkage=1.0, popularity=1.0, reverse=0.0
    )
    summed = half + 2 * third
    assert edges(shrunk) == approx({0: {1: summed / (summed + 1) / 4}, 1: {0: summed / (summed + 1) / 5}})


def test_swing_looks_at_some_users_of_an_item_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = trained([0, 1], [0, 1], [0, 2], [0, 2], num_items=3)
    assert edges(ItemGraph.of(dataset, kind="swing", **PLAIN))[0] == approx({0: {1: 0.5, 2: 0.5}})[0]
    monkeypatch.setattr(
        "rearec.data.item_graph.swing.USERS", 2
    )  # the first and the third of the four who have 0 share nothing else
    assert edges(ItemGraph.of(dataset, kind="swing", **PLAIN)) == approx({1: {0: 1}, 2: {0: 1}})


def test_an_item_is_no_neighbour_of_its_own_and_ties_stand_by_lower_item() -> None:
    graph = ItemGraph.of(trained([0, 0, 3], [0, 2], [0, 1], [0, 1]), window=2, decay=1.0, **PLAIN)
    assert edges(graph) == approx({0: {1: 2 / 5, 3: 2 / 5, 2: 1 / 5}})
    assert list(edges(graph)[0]) == [1, 3, 2]
    assert edges(
        ItemGraph.of(trained([0, 0, 3], [0, 2], [0, 1], [0, 1]), window=2, decay=1.0, neighbors=1, **PLAIN)
    ) == (approx({0: {1: 2 / 5}}))
    items, weights = graph.top(2)
    assert items.tolist() == [[1, 3], [-1, -1], [-1, -1], [-1, -1]] and weights[1].tolist() == [0, 0]


def further(valid_target: int = 3, test_target: int = 4) -> SequenceDataset:
    """A user with a training row of its own, whose history is 1, 0, and a test row of its own."""
    return SequenceDataset(
        items=np.array([0, 1, 2, valid_target, 1, 0, 5, 0, test_target], dtype=np.int32),
        offsets=np.array([0, 4, 7, 9]),
        sequence_user=np.zeros(3, dtype=np.int32),
        split_rows={
            "train": np.array([[0, 1], [0, 2], [1, 2]], np.int32),
            "valid": np.array([[0, 3]], np.int32),
            "test": np.array([[2, 1]], np.int32),
        },
        item_ids=list("abcdefg"),
        user_ids=["ann"],
        statistics={},
    )


def test_a_further_sequence_counts_its_target_only() -> None:
    graph = ItemGraph.of(further(), window=2, decay=0.5, **PLAIN)
    assert edges(graph) == approx({0: {1: 0.4, 5: 0.4, 2: 0.2}, 1: {2: 1 / 1.5, 5: 0.5 / 1.5}})
    users = ItemGraph.of(further(), kind="cooccurrence")
    assert sorted(edges(users)) == [0, 1, 2, 5] and set(edges(users)[5].values()) == {1.0}


def changed(dataset: SequenceDataset, draw: np.random.Generator) -> SequenceDataset:
    """The same with other items at the places of the valid and test rows."""
    items = np.array(dataset.items)
    rows = np.concatenate([np.asarray(dataset.rows(split)) for split in ("valid", "test")])
    places = np.asarray(dataset.offsets)[rows[:, 0]] + rows[:, 1]
    items[places] = draw.integers(dataset.num_items, size=len(places))
    assert (items != dataset.items).any()
    return replace(dataset, items=items)


def by_time(tmp_path: Path) -> SequenceDataset:
    draw = np.random.default_rng(1)
    lines = [f"u{user} i{draw.integers(9)} {time}" for user in range(20) for time in sorted(draw.integers(40, size=8))]
    source = tmp_path / "events.csv"
    source.write_text("\n".join(["u i t", *lines]) + "\n")
    return prepare(
        *("table", [source], tmp_path / "data"),
        **{"user_column": "u", "item_column": "i", "timestamp_column": "t", "separator": " "},
        **{"split": "timestamp", "valid_from": "20", "test_from": "30"},
    )


@pytest.mark.parametrize("kind", ["transitions", "cooccurrence", "swing"])
@pytest.mark.parametrize("make", [lambda _: repeating_dataset(), lambda _: further(), by_time])
def test_valid_and_test_items_change_nothing(
    make: Callable[[Path], SequenceDataset], kind: Any, tmp_path: Path
) -> None:
    dataset = make(tmp_path)
    graph = ItemGraph.of(dataset, kind=kind)
    other = ItemGraph.of(changed(dataset, np.random.default_rng(0)), kind=kind)
    assert len(graph.neighbors) or (kind == "swing" and dataset.num_users == 1)
    for name in ("offsets", "neighbors", "weights"):
        assert np.array_equal(getattr(graph, name), getattr(other, name)), name
    assert graph.fingerprint != other.fingerprint


def brute_force(dataset: SequenceDataset, options: GraphOptions) -> dict[tuple[int, int], float]:
    """Every weight, from lists of a user each."""
    lists = [items[:-2] for items in np.split(dataset.items, dataset.offsets[1:-1]) if len(items) > 2]
    lists = [items.tolist() for items in lists]
    count = Counter(item for items in lists for item in items)
    users = Counter(item for items in lists for item in set(items))
    pairs: Counter[tuple[int, int]] = Counter()
    for one, other in combinations(map(set, lists) if options.kind == "swing" else (), 2):
        for a, b in permutations(one & other, 2):
            pairs[a, b] += 1 / math.sqrt(len(one) * len(other)) / (1 + len(one & other))  # type: ignore[assignment]
    for items in lists if options.kind != "swing" else ():
        alike = options.kind == "cooccurrence"
        listed = list(dict.fromkeys(items)) if alike else items
        for place, after in enumerate(listed):
            for gap in range(1, min(options.window, place) + 1):
                if (before := listed[place - gap]) != after:
                    weight = 1.0 if alike else options.decay ** (gap - 1)
                    pairs[before, after] += weight  # type: ignore[assignment]
                    pairs[after, before] += weight if alike else options.reverse * weight  # type: ignore[assignment]
    if options.kind == "cooccurrence":
        return {(a, b): weight / math.sqrt(users[a] * users[b]) for (a, b), weight in pairs.items()}
    total = Counter[int]()
    for (a, _), weight in pairs.items():
        total[a] += weight
    return {
        (a, b): weight / (total[a] + options.shrinkage) / (count[b] + 1) ** options.popularity
        for (a, b), weight in pairs.items()
    }


OPTIONS = [
    GraphOptions(),
    GraphOptions(window=30, decay=0.9, reverse=1.0, popularity=0.7),
    GraphOptions(kind="cooccurrence", window=3),
    GraphOptions(kind="cooccurrence", window=99),
    GraphOptions(kind="swing"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_weights_are_those_of_brute_force(options: GraphOptions) -> None:
    dataset = repeating_dataset()
    expected = brute_force(dataset, options)
    found = {
        (a, b): weight for a, of_item in edges(ItemGraph.of(dataset, options)).items() for b, weight in of_item.items()
    }
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("options", [*OPTIONS, GraphOptions(window=8, decay=0.8, popularity=0.0, neighbors=4)])
def test_graphs_of_several_shrinkages_are_those_counted_with_each(options: GraphOptions) -> None:
    dataset, shrinkages = repeating_dataset(), (10.0, 0.0, 250.0)
    graphs = ItemGraph.by_shrinkage(dataset, options, shrinkages)
    for shrinkage, graph in zip(shrinkages, graphs, strict=True):
        alone = ItemGraph.of(dataset, replace(options, shrinkage=shrinkage))
        assert graph.options == alone.options and graph.fingerprint == alone.fingerprint
        assert graph.offsets.tolist() == alone.offsets.tolist() and graph.weights.tolist() == alone.weights.tolist()
        assert graph.neighbors.tolist() == alone.neighbors.tolist() == graphs[0].neighbors.tolist()
    alike = graphs[1].weights.tolist() == graphs[2].weights.tolist()
    assert alike == (options.kind == "cooccurrence")


@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_depends_on_the_order_of_counting(options: GraphOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = repeating_dataset()
    sequences = np.split(dataset.items, dataset.offsets[1:-1])
    mixed = dataset_of([list(items) for items in reversed(sequences[:-2])], dataset.num_items)
    graph, turned = ItemGraph.of(dataset, options), ItemGraph.of(mixed, options)
    monkeypatch.setattr("rearec.data.item_graph.counts.PAIRS", 50)
    for other in (turned, ItemGraph.of(dataset, options), ItemGraph.of(dataset, options)):
        for name in ("offsets", "neighbors", "weights"):
            assert np.array_equal(getattr(graph, name), getattr(other, name)), name


@pytest.mark.parametrize("spread", [0, 64])
def test_scores_are_those_of_a_double_loop(spread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # of one history, by sorting and by a number for every item
    monkeypatch.setattr("rearec.data.item_graph.scores.SPREAD", spread)
    dataset = repeating_dataset()
    graph = ItemGraph.of(dataset)
    histories = [[3, 1, 3, 3], [], [5], [*range(12)], [0, 7]]
    offsets, items = np.cumsum([0, *map(len, histories)]), np.concatenate(histories).astype(np.int64)
    for last, decay in ((1, 0.5), (3, 0.5), (100, 0.9), (100, 1.0)):
        scores = graph.scores(offsets, items, last=last, decay=decay)
        assert scores.offsets[0] == 0 and len(scores.offsets) == len(histories) + 1
        for row, history in enumerate(histories):
            expected: Counter[int] = Counter()
            for back, source in enumerate(history[::-1][:last]):
                for neighbor, weight in zip(*(array.tolist() for array in graph.edges(source)), strict=True):
                    expected[neighbor] += weight * decay**back
            own = slice(scores.offsets[row], scores.offsets[row + 1])
            assert scores.items[own].tolist() == sorted(expected)
            assert scores.scores[own] == pytest.approx([expected[item] for item in sorted(expected)], rel=1e-12)
            alone = graph.scores(np.array([0, len(history)]), np.array(history, dtype=np.int64), last=last, decay=decay)
            assert alone.items.tolist() == scores.items[own].tolist() and alone.items.dtype == np.int64
            assert alone.scores.tolist() == scores.scores[own].tolist()
        assert set(scores.rows.tolist()) == {0, 2, 3, 4}


def test_what_is_too_small_for_a_float_has_no_score() -> None:
    graph = ItemGraph.of(trained([0, 1], [2, 3]), **PLAIN)
    scores = graph.scores(np.array([0, 500]), np.array([2] + [0] * 499), last=999, decay=0.1)
    assert scores.items.tolist() == [1] and scores.offsets.tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["transitions", "cooccurrence", "swing"])
def test_nothing_to_count(kind: Any) -> None:
    for dataset in (dataset_of([[0, 0, 0, 0]], 1), dataset_of([[0, 1]], 2, valid=1), dataset_of([[0]], 3, valid=0)):
        graph = ItemGraph.of(dataset, kind=kind)
        assert graph.num_items == dataset.num_items and not len(graph.neighbors)
        assert graph.top(2)[0].tolist() == [[-1, -1]] * dataset.num_items
        scores = graph.scores(np.array([0, 1, 1]), np.array([0]), last=5, decay=0.5)
        assert scores.offsets.tolist() == [0, 0, 0] and not len(scores.items)


@pytest.mark.parametrize("name", ["decay", "reverse"])
def test_shares_are_at_most_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got 1.5, expected a number of at most 1$"):
        GraphOptions(**{name: 1.5})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "graph.safetensors"
    ItemGraph.of(repeating_dataset(), window=3).save(path, {"weight": 0.5})
    return path


def test_a_saved_graph_comes_back(saved: Path) -> None:
    graph, (found, noted) = ItemGraph.of(repeating_dataset(), window=3), ItemGraph.load(saved)
    assert noted == {"weight": 0.5} and found.options == graph.options and found.fingerprint == graph.fingerprint
    for name in ("offsets", "neighbors", "weights"):
        stored, original = getattr(found, name), getattr(graph, name)
        assert np.array_equal(stored, original) and stored.dtype == original.dtype
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not list what is mapped")
def test_a_loaded_graph_is_mapped_not_read(saved: Path) -> None:
    graph, _ = ItemGraph.load(saved)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(saved))]
    spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    address = graph.weights.__array_interface__["data"][0]
    assert any(begin <= address < end for begin, end in spans)


def rewritten(path: Path, out: Path, metadata: dict[str, str] | None = None, **arrays: np.ndarray) -> None:
    graph, _ = ItemGraph.load(path)
    said = {"options": {}, "fingerprint": "", "noted": {}}
    kept = {"offsets": graph.offsets, "neighbors": graph.neighbors, "weights": graph.weights} | arrays
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in kept.items()}
    safetensors.torch.save_file(tensors, out, {"graph": json.dumps(said)} if metadata is None else metadata)


def test_what_is_rewritten_alike_is_read(saved: Path, tmp_path: Path) -> None:
    rewritten(saved, tmp_path / "graph")
    assert ItemGraph.load(tmp_path / "graph")[0].options == GraphOptions()


DAMAGES: dict[str, Callable[[ItemGraph], dict[str, Any]]] = {
    "beyond": lambda graph: {"neighbors": graph.neighbors + 1},
    "negative": lambda graph: {"neighbors": -1 - graph.neighbors},
    "wide": lambda graph: {"neighbors": graph.neighbors.astype(np.int64)},
    "short": lambda graph: {"weights": graph.weights[1:]},
    "not a number": lambda graph: {"weights": np.where(graph.weights > 0.1, np.nan, graph.weights)},
    "falling": lambda graph: {
        "offsets": np.concatenate((graph.offsets[:1], graph.offsets[1:-1][::-1], graph.offsets[-1:]))
    },
    "no offsets": lambda graph: {"offsets": np.empty(0, np.int64)},
    "square": lambda graph: {"weights": graph.weights[None]},
    "no metadata": lambda graph: {"metadata": {}},
    "no json": lambda graph: {"metadata": {"graph": "{"}},
    "a list": lambda graph: {"metadata": {"graph": "[]"}},
    "unknown option": lambda graph: {
        "metadata": {"graph": json.dumps({"options": {"size": 1}, "fingerprint": "", "noted": {}})}
    },
    "wrong option": lambda graph: {
        "metadata": {"graph": json.dumps({"options": {"window": 0}, "fingerprint": "", "noted": {}})}
    },
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_in_a_line(damage: str, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    rewritten(saved, path, **DAMAGES[damage](ItemGraph.load(saved)[0]))
    with pytest.raises(UserError, match="item graph") as raised:
        ItemGraph.load(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


def test_no_file_half_a_file_and_no_place_for_one(saved: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    (tmp_path / "text").write_text("no tensors")
    for path in (half, tmp_path / "text", tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="not a readable item graph") as raised:
            ItemGraph.load(path)
        assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)
    with pytest.raises(UserError, match="cannot be written"):
        ItemGraph.load(saved)[0].save(tmp_path / "none" / "graph")
