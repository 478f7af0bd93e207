"""The events of a small shop that does not exist, with titles, to try everything on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rearec.data.synthetic.planted import Planted, walk
from rearec.errors import UserError
from rearec.files import check_way, open_aside

if TYPE_CHECKING:
    import polars as pl

__all__ = ["sample_events", "write_sample"]

# By department its themes: the appliance that makes a customer buy of it, and what there is to buy.
DEPARTMENTS = {
    "kitchen": {
        "Espresso Machine": ("Coffee Beans", "Milk Jug", "Descaler", "Espresso Cups"),
        "Stand Mixer": ("Bread Flour", "Baking Tin", "Pastry Brush", "Vanilla Sugar"),
        "Contact Grill": ("Grill Seasoning", "Grill Tongs", "Drip Tray Liners", "Steak Knives"),
    },
    "garden": {
        "Lawn Mower": ("Grass Seed", "Lawn Fertilizer", "Edging Shears", "Leaf Bags"),
        "Greenhouse": ("Tomato Seeds", "Potting Soil", "Plant Labels", "Drip Hose"),
        "Garden Pond": ("Pond Pump Filter", "Fish Food", "Water Lily", "Algae Net"),
    },
    "office": {
        "Laser Printer": ("Copy Paper", "Toner", "Address Labels", "Ring Binder"),
        "Fountain Pen": ("Ink Cartridges", "Notebook", "Blotting Paper", "Letter Envelopes"),
        "Video Camera": ("Memory Card", "Tripod", "Desk Light", "Lapel Microphone"),
    },
    "workshop": {
        "Circular Saw": ("Saw Blade", "Wood Glue", "Clamps", "Carpenter Pencil"),
        "Paint Sprayer": ("Wall Paint", "Masking Tape", "Dust Sheet", "Paint Filter"),
        "Bike Stand": ("Chain Oil", "Inner Tube", "Brake Pads", "Spoke Wrench"),
    },
}
MAKERS = ("Avelo", "Nordfell")
VARIANTS = ("Classic", "Basic", "Premium", "Eco")
THEMES = [theme for department in DEPARTMENTS.values() for theme in department.items()]

STRUCTURE = Planted(
    users=1200,
    kinds=len(DEPARTMENTS),
    anchors_per_kind=len(THEMES) // len(DEPARTMENTS) * len(MAKERS),
    themes=len(THEMES),
    items_per_theme=len(THEMES[0][1]) * len(VARIANTS),
    depths=(0.8, 0.2),
    mean_length=9.0,
    noise=0.1,
    skew=1.0,
)
FIRST_ITEM, FIRST_USER = 1001, 50001
BEGIN, DAYS = np.datetime64("2025-01-01T08:00", "m"), 365


def sample_events(seed: int = 0) -> pl.DataFrame:
    """Purchases in a shop that does not exist: columns user, item (whole numbers), time and title, in time order.

    Made so that the order matters: every customer first buys one appliance in each of four departments. What is bought
    next follows from the last product, which leads to a department, and from the customer's own appliance there: who
    has an espresso machine buys beans, who has a grill tongs. A fifth of the products lead on through that appliance
    to a second department. A tenth of the purchases follow no rule. So neither popularity nor the last product alone
    tells what comes next, as `rearec.data.synthetic.Planted` says in full; no shop is as regular as this.

    Args:
        seed: the same seed gives the same events.

    Examples:
        >>> from rearec.data import Dataset, sample_events
        >>> events = sample_events()
        >>> events.columns
        ['user', 'item', 'time', 'title']
        >>> dataset = Dataset.from_frame(events, user="user", item="item", time="time", titles="title")
        >>> dataset.num_users, dataset.num_items, dataset.item_titles[0]
        (1200, 216, 'Nordfell Video Camera')
    """
    import polars as pl

    rng = np.random.default_rng(seed)
    anchors, everyday = STRUCTURE.kinds * STRUCTURE.anchors_per_kind, STRUCTURE.themes * STRUCTURE.items_per_theme
    kind_of_anchor = np.repeat(np.arange(STRUCTURE.kinds), STRUCTURE.anchors_per_kind)
    onward = (kind_of_anchor + rng.integers(1, STRUCTURE.kinds, anchors)) % STRUCTURE.kinds
    points_to = np.concatenate((onward, rng.integers(STRUCTURE.kinds, size=everyday)))
    theme_of_anchor = np.repeat(np.arange(STRUCTURE.themes), len(MAKERS))
    shares = np.asarray(STRUCTURE.depths)
    depth = rng.choice(len(shares), size=everyday, p=shares) + 1
    user, item = walk(rng, STRUCTURE, points_to, theme_of_anchor, depth)

    # A customer comes at any time of the year, and again after some days.
    first = np.diff(user, prepend=-1) > 0
    minutes = np.ceil(rng.exponential(6 * 24 * 60, len(user))).astype(np.int64)
    minutes[first] = rng.integers(DAYS * 24 * 60, size=STRUCTURE.users)
    since = np.cumsum(minutes)
    since -= np.repeat((since - minutes)[first], np.diff(np.append(np.flatnonzero(first), len(user))))
    order = np.lexsort((user, since))
    number = FIRST_ITEM + rng.permutation(anchors + everyday)
    columns = {
        "user": FIRST_USER + user,
        "item": number[item],
        "time": BEGIN + since,
        "title": np.array(_titles())[item],
    }
    columns["time"] = columns["time"].astype("datetime64[us]")
    return pl.DataFrame({name: values[order] for name, values in columns.items()})


def _titles() -> list[str]:
    """The title of each item: the appliances, then what there is to buy."""
    appliances = [f"{maker} {appliance}" for appliance, _ in THEMES for maker in MAKERS]
    return appliances + [f"{variant} {noun}" for _, nouns in THEMES for noun in nouns for variant in VARIANTS]


def write_sample(path: str | Path, *, seed: int = 0, force: bool = False) -> int:
    """Write `sample_events` as a csv file; returns the number of events.

    Raises:
        UserError: the file exists and ``force`` is not given, or cannot be written.
    """
    path = Path(path)
    check_way(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a csv file")
    if path.exists() and not force:
        raise UserError(f"{path}: exists; use --force to replace it")
    events = sample_events(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_aside(path) as file:
        file.write(events.write_csv(datetime_format="%Y-%m-%d %H:%M"))
    return events.height
