"""Generated data: one set in which depth pays, for demonstrations and tests, and one shaped like the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation.assembly import assemble
from rearec.data.preparation.splits import leave_one_out
from rearec.data.readers.interactions import Interactions, Place
from rearec.data.storage import load_dataset, save_dataset

__all__ = ["Planted", "generate", "paper_shaped", "planted_theme"]

# Shape of the Amazon sets: at least this many items, log-normal above, popularity by a power law.
MIN_LENGTH = 3
LENGTH_SIGMA = 1.3
POPULARITY_EXPONENT = 0.8


@dataclass(frozen=True)
class Planted:
    """The planted structure of ``generate``.

    The catalogue holds anchors of a few kinds and everyday items of a few themes. Each user begins with one anchor of
    every kind, in random order, and goes on with everyday items. Every item points to a kind of anchor, every anchor
    also to a theme, and every everyday item has a depth. The next item follows from the last one by hops: take the
    kind it points to and look up the user's own anchor of that kind (one hop); at depth 2 take the kind *that anchor*
    points to and look up the user's anchor of that kind, and so on; the theme of the anchor where this ends is the
    theme of the next item, which is drawn from it by popularity. With probability ``noise`` the next item is drawn
    from the whole catalogue of everyday items instead. A hop needs one attention over the history, and the second
    can only begin when the first has ended: a network of one layer answers depth 1 and has to guess at depth 2,
    unless it takes reasoning steps. (One layer of width 64, dropout 0.1, learning rate 5e-3, 20 epochs show it.)

    Attributes:
        users: number of users.
        kinds: kinds of anchors, at least 2; each user has one of each.
        anchors_per_kind: anchors of each kind in the catalogue.
        themes: themes of everyday items.
        items_per_theme: everyday items of each theme.
        depths: shares of the everyday items with depth 1, 2, ...
        mean_length: mean number of everyday items of a user.
        noise: probability that an item follows no rule.
        skew: exponent of the popularity of items within a theme (0: all alike).
    """

    users: int = 2000
    kinds: int = 4
    anchors_per_kind: int = 8
    themes: int = 12
    items_per_theme: int = 24
    depths: Sequence[float] = (0.4, 0.6)
    mean_length: float = 14.0
    noise: float = 0.1
    skew: float = 1.0

    def __post_init__(self) -> None:
        for name in ("users", "anchors_per_kind", "themes", "items_per_theme"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.kinds < 2:
            raise ValueError(f"kinds must be at least 2, got {self.kinds}")
        if len(self.depths) == 0 or min(self.depths) < 0 or sum(self.depths) <= 0:
            raise ValueError(f"depths must be shares with a positive sum, got {tuple(self.depths)}")
        if self.mean_length < 3:
            raise ValueError(f"mean_length must be at least 3, got {self.mean_length}")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise must be in [0, 1], got {self.noise}")


def generate(
    seed: int = 0, *, planted: Planted | None = None, out: str | Path | None = None, force: bool = False
) -> SequenceDataset:
    """Data in which depth pays, split by leave-one-out; the same seed gives the same data.

    Args:
        seed: a non-negative number.
        planted: the structure; None for the default one.
        out: a directory to write the prepared dataset to; None keeps it in memory.
        force: replace an existing prepared dataset.

    Raises:
        UserError: ``out`` exists and ``force`` is not given, or cannot be written.
    """
    structure = planted or Planted()
    rng = np.random.default_rng(seed)
    anchors = structure.kinds * structure.anchors_per_kind
    everyday = structure.themes * structure.items_per_theme
    points_to, theme_of_anchor, depth = _rules(structure, rng)

    own = rng.integers(structure.anchors_per_kind, size=(structure.users, structure.kinds))
    own += np.arange(structure.kinds) * structure.anchors_per_kind
    length = np.maximum(rng.geometric(1 / (structure.mean_length - 2), size=structure.users) + 2, 3)
    length = np.minimum(length, int(3 * structure.mean_length))
    everyday_items = np.empty((structure.users, length.max()), dtype=np.int64)
    item = anchors + rng.integers(everyday, size=structure.users)
    user = np.arange(structure.users)
    for step in range(everyday_items.shape[1]):
        everyday_items[:, step] = item
        anchor = own[user, points_to[item]]
        for hop in range(1, len(structure.depths)):
            anchor = np.where(depth[item - anchors] > hop, own[user, points_to[anchor]], anchor)
        free = rng.random(structure.users) < structure.noise
        theme = np.where(free, rng.integers(structure.themes, size=structure.users), theme_of_anchor[anchor])
        place = _power_law(rng, structure.items_per_theme, structure.skew, structure.users)
        item = anchors + theme * structure.items_per_theme + place

    first = rng.permuted(own, axis=1)
    slots = np.concatenate((first, everyday_items), axis=1)
    present = np.arange(slots.shape[1]) < (structure.kinds + length)[:, None]
    names = _names(structure)
    dataset = _leave_one_out(
        np.repeat(user, present.sum(axis=1)),
        slots[present],
        names,
        {"format": "planted", "seed": seed},
        asdict(structure),
    )
    if out is None:
        return dataset
    save_dataset(dataset, out, force=force)
    return load_dataset(out)


def planted_theme(history: Sequence[str], seed: int = 0, *, planted: Planted | None = None) -> int:
    """The theme of the item that comes next by rule, in the data that `generate` makes of the same arguments.

    Args:
        history: names of items: an anchor of each kind that is looked up, an everyday item last.

    Examples:
        >>> from rearec.data.synthetic import planted_theme
        >>> planted_theme(["anchor-0-3", "anchor-1-5", "anchor-2-0", "anchor-3-7", "item-1-0"])
        3
    """
    structure = planted or Planted()
    points_to, theme_of_anchor, depth = _rules(structure, np.random.default_rng(seed))
    place = {name: index for index, name in enumerate(_names(structure))}
    own = {int(name.split("-")[1]): place[name] for name in history if name.startswith("anchor-")}
    item = place[history[-1]]
    anchor = own[int(points_to[item])]
    for _ in range(1, int(depth[item - structure.kinds * structure.anchors_per_kind])):
        anchor = own[int(points_to[anchor])]
    return int(theme_of_anchor[anchor])


def _names(structure: Planted) -> list[str]:
    """The items, anchors first."""
    names = [f"anchor-{kind}-{n}" for kind in range(structure.kinds) for n in range(structure.anchors_per_kind)]
    return names + [f"item-{theme}-{n}" for theme in range(structure.themes) for n in range(structure.items_per_theme)]


def _rules(
    structure: Planted, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The kind that each item points to, the theme of each anchor, the depth of each everyday item."""
    anchors, everyday = structure.kinds * structure.anchors_per_kind, structure.themes * structure.items_per_theme
    kind_of_anchor = np.repeat(np.arange(structure.kinds), structure.anchors_per_kind)
    # An anchor points to another kind than its own, so that each hop goes somewhere else.
    points_to = (kind_of_anchor + rng.integers(1, structure.kinds, anchors)) % structure.kinds
    points_to = np.concatenate((points_to, rng.integers(structure.kinds, size=everyday)))
    theme_of_anchor = rng.integers(structure.themes, size=anchors)
    shares = np.asarray(structure.depths) / np.sum(structure.depths)
    return points_to, theme_of_anchor, rng.choice(len(shares), size=everyday, p=shares) + 1


def paper_shaped(num_users: int, num_items: int, mean_length: float, seed: int = 0) -> SequenceDataset:
    """Data without structure but of a real set's shape, in memory, for benchmarks: split by leave-one-out.

    Sequence lengths are skewed (log-normal from 3 items on, mean ``mean_length``), popularity falls by a power law, and
    every item occurs. Table 1 of the paper has, for instance, 89,021 users, 22,933 items and a mean length of 6.

    Args:
        num_users: number of users, at least 1.
        num_items: size of the catalogue, at most the number of interactions.
        mean_length: mean number of items of a user, above 3.
        seed: a non-negative number.

    Raises:
        ValueError: an argument is out of its range.
    """
    if num_users < 1 or num_items < 1:
        raise ValueError(f"num_users and num_items must be at least 1, got {num_users} and {num_items}")
    if mean_length <= MIN_LENGTH:
        raise ValueError(f"mean_length must be above {MIN_LENGTH}, got {mean_length}")
    rng = np.random.default_rng(seed)
    excess = rng.lognormal(0.0, LENGTH_SIGMA, num_users)
    excess *= (mean_length - MIN_LENGTH) / excess.mean()
    # Rounding at random keeps the mean.
    length = MIN_LENGTH + np.floor(excess + rng.random(num_users)).astype(np.int64)
    total = int(length.sum())
    if num_items > total:
        raise ValueError(f"num_items is {num_items}, but there are only {total} interactions")
    items = rng.permutation(num_items)[_power_law(rng, num_items, POPULARITY_EXPONENT, total)]
    items[rng.choice(total, num_items, replace=False)] = rng.permutation(num_items)
    options = {"num_users": num_users, "num_items": num_items, "mean_length": mean_length}
    names = [str(item) for item in range(num_items)]
    return _leave_one_out(
        np.repeat(np.arange(num_users), length), items, names, {"format": "paper_shaped", "seed": seed}, options
    )


def _power_law(rng: np.random.Generator, count: int, exponent: float, size: int) -> NDArray[np.int64]:
    """int64 [size], draws from 0..count-1; k has a probability proportional to (k + 1) ** -exponent."""
    cumulative = np.cumsum(np.arange(1, count + 1, dtype=np.float64) ** -exponent)
    return np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")


def _leave_one_out(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    item_ids: list[str],
    source: dict[str, Any],
    options: dict[str, Any],
) -> SequenceDataset:
    place = Place([], np.zeros(len(user), dtype=np.int32), np.arange(1, len(user) + 1))
    user_ids = [f"user-{number}" for number in range(int(user.max()) + 1)]
    interactions = Interactions(user.astype(np.int32), item.astype(np.int32), user_ids, item_ids, place)
    return assemble(leave_one_out(interactions), user_ids, item_ids, source=source, options=options)
