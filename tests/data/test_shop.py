"""The sample: the events of a shop that does not exist."""

from __future__ import annotations

import numpy as np
import polars as pl

from rearec.data import sample_events
from rearec.data.synthetic.shop import DEPARTMENTS, MAKERS, STRUCTURE, VARIANTS


def test_the_same_seed_gives_the_same_events() -> None:
    assert sample_events(3).equals(sample_events(3))
    assert not sample_events(3).equals(sample_events(4))


def test_events_are_well_formed() -> None:
    events = sample_events()
    assert events.columns == ["user", "item", "time", "title"] and not any(events.null_count().row(0))
    assert events["time"].is_sorted()
    # No two events of a customer at one time: their order is never that of the rows alone.
    assert not events.select(pl.struct("user", "time").is_duplicated().any()).item()
    # A title for each item, no title twice.
    pairs = events.select("item", "title").unique()
    assert len(pairs) == events["item"].n_unique() == events["title"].n_unique()
    assert events["user"].n_unique() == STRUCTURE.users


def test_what_follows_is_what_the_docstring_says() -> None:
    """The last product's department and the customer's own appliance there tell the theme of the next."""
    events = sample_events().sort("user", "time", maintain_order=True)
    appliances = {f"{maker} {name}": name for themes in DEPARTMENTS.values() for name in themes for maker in MAKERS}
    theme_of = {
        f"{variant} {noun}": name
        for themes in DEPARTMENTS.values()
        for name, nouns in themes.items()
        for noun in nouns
        for variant in VARIANTS
    }
    owned: dict[int, set[str]] = {}
    themes: list[tuple[int, str]] = []
    for user, title in events.select("user", "title").iter_rows():
        if title in appliances:
            assert not any(user == customer for customer, _ in themes[-1:]), "an appliance after a product"
            owned.setdefault(user, set()).add(appliances[title])
        else:
            themes.append((user, theme_of[title]))
    departments = [set(themes_of) for themes_of in DEPARTMENTS.values()]
    assert all(len(own & themes_of) == 1 for own in owned.values() for themes_of in departments)
    fits = np.asarray([theme in owned[user] for user, theme in themes])
    # All but those that follow no rule, of which a third fits by chance; the first product of each is drawn freely.
    free = STRUCTURE.noise + len(owned) / len(themes)
    assert abs(fits.mean() - (1 - free * 2 / 3)) < 0.03
