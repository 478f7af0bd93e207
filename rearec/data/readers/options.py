"""Options of ``prepare``, each in one place; free of imports that cost, so that the command line is made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from rearec.data.tables.layout import Layout, Quoting
from rearec.errors import UserError
from rearec.fields import check_options, documented, setting

__all__ = ["SPLITS", "PrepareOptions", "Preset", "Split"]

Split = Literal["leave-one-out", "timestamp", "time-span", "given"]
Preset = Literal["baby", "cds", "software", "video-games", "yelp"]

# The libraries alone take half of it.
LEAST_MEMORY = 600 * 10**6

SPLITS: tuple[Split, ...] = get_args(Split)

SPLIT, INTERACTIONS, ROWS = "Split", "Filters on interactions", "Filters on predictions"
COLUMNS, LAYOUT, TITLES, MEMORY = "Columns", "How the files are written", "Titles", "Memory"


@documented
@dataclass(frozen=True)
class PrepareOptions:
    """How a dataset is prepared. An option that is None is that of the preset, without one its plain default.

    The order: what a row must be to count (``where``, ``item_pattern``, ``missing``, ``drop_incomplete``), then
    ``min_rating``, ``duplicates``, core, split, then the filters on rows (``missing_titles="drop"``,
    ``min_target_rating``, the history lengths, ``known_items``). A filter on rows drops predictions, not interactions:
    histories keep all their items. Ties in time keep the order of the source.

    Raises UserError where a value is none of the words, out of its range, or of no use in reading a table.

    Examples:
        >>> from rearec.data import PrepareOptions
        >>> PrepareOptions(separator="tab", core=5).layout.separator
        'tab'
        >>> PrepareOptions(core=0)
        Traceback (most recent call last):
        rearec.errors.UserError: --core must be at least 1, got 0
    """

    preset: Preset | None = setting(
        "amazon2023: filters and split of the paper; single options override.",
        more="The only one of yelp holds without being named.",
    )
    expect: bool = setting("Fail unless the counts are the published ones of the preset.", default=False)

    split: Split | None = setting(
        "Which interactions are for train, valid and test.",
        more="None: as the files say, see ``rearec.data.preparation.split_choice``.",
        panel=SPLIT,
        shown="given where file names say train, valid, test; else leave-one-out",
    )
    valid_from: str | None = setting(
        "timestamp: first time of validation; time-span: share before it.",
        more="Rows from then on are for validation, or those after this share of the time from the first to the last "
        "interaction.",
        panel=SPLIT,
        metavar="TIME",
    )
    test_from: str | None = setting("The same of the test.", panel=SPLIT, metavar="TIME")
    carve_valid: bool = setting(
        "Files for train and test only: each user's last train item is for validation.", default=False, panel=SPLIT
    )

    where: tuple[str, ...] = setting(
        "Only lines with this value: event=view; event=view,cart; label!=0; price>=10. May be repeated.",
        more="A line must meet all conditions; < <= > >= compare with a number.",
        default=(),
        panel=INTERACTIONS,
        metavar="COLUMN=VALUE",
    )
    missing: tuple[str, ...] = setting(
        "Drop lines whose user, item or time is this, such as NA. May be repeated.",
        more="A missing rating is none.",
        default=(),
        panel=INTERACTIONS,
        metavar="TOKEN",
    )
    drop_incomplete: bool = setting(
        "Drop lines without a user, item or time instead of refusing the file.", default=False, panel=INTERACTIONS
    )
    min_rating: float | None = setting("Drop interactions rated lower.", panel=INTERACTIONS)
    duplicates: Literal["keep", "first", "error"] | None = setting(
        "Repeated (user, item) pairs.",
        more="keep all, only the first in time, or error.",
        panel=INTERACTIONS,
        shown="keep",
    )
    core: int | None = setting(
        "Drop users and items with fewer interactions than this, until none is left.",
        more="Users and items alike.",
        panel=INTERACTIONS,
        at_least=1,
    )
    user_core: int | None = setting("As --core, for users alone.", panel=INTERACTIONS, at_least=1)
    item_core: int | None = setting("As --core, for items alone.", panel=INTERACTIONS, at_least=1)

    min_target_rating: float | None = setting("Do not predict items that are rated lower.", panel=ROWS)
    min_train_history: int | None = setting(
        "Do not train on predictions from fewer items.", panel=ROWS, at_least=0, shown="0"
    )
    min_eval_history: int | None = setting(
        "Do not validate or test predictions from fewer items.", panel=ROWS, at_least=0, shown="0"
    )
    known_items: bool | None = setting(
        "Do not validate or test predictions with items that are not in train.",
        more="Neither as target nor in the history.",
        panel=ROWS,
        flags="--known-items/--all-items",
        shown="all-items",
    )

    user_column: str | None = setting("Users.", panel=COLUMNS, metavar="NAME", shown="user_id or user")
    item_column: str | None = setting("Items.", panel=COLUMNS, metavar="NAME", shown="item_id or item")
    rating_column: str | None = setting(
        "Ratings.",
        more="A column that is named must exist.",
        panel=COLUMNS,
        metavar="NAME",
        shown="rating, if there is one",
    )
    timestamp_column: str | None = setting(
        "Times; with NAME,NAME the second orders what is equal in the first.",
        more="A time of day in the second is added to its date.",
        panel=COLUMNS,
        metavar="NAME",
        shown="timestamp, if there is one",
    )
    timestamps: bool = setting(
        "The rows are in time order; use no column for it.",
        default=True,
        panel=COLUMNS,
        more="This is what False says.",
        flags=" /--no-timestamps",
        shown=False,
    )
    time_format: str | None = setting(
        "How times are written: '%d/%m/%Y %H:%M'; number: no dates.",
        more="In the letters of strftime.",
        panel=COLUMNS,
        metavar="FORMAT",
    )
    item_pattern: str | None = setting(
        "Drop items that this does not match; its first group is the id.",
        more="A regular expression, matched in full.",
        panel=COLUMNS,
        metavar="REGEX",
    )
    lists: bool = setting(
        "table: a row has a list of items (and times).",
        more="Separated by commas, blanks or bars.",
        default=False,
        panel=COLUMNS,
    )

    columns: str | None = setting(
        "Names of the columns of text tables without a header.", panel=LAYOUT, metavar="NAME,NAME,..."
    )
    separator: str | None = setting(
        "Between fields: ',' '::' '\\t' space '\\s+'.",
        more="See `Layout`, as for quoting, escape and encoding.",
        panel=LAYOUT,
        metavar="TEXT",
        shown="by the file's name",
    )
    quoting: Quoting = setting(
        "auto: quotes as csv has them, doubtful ones are refused; csv: as they come; none: quotes are characters.",
        default="auto",
        panel=LAYOUT,
    )
    escape: str | None = setting(
        "The character before a quote inside quotes; doubled quotes otherwise.", panel=LAYOUT, metavar="CHARACTER"
    )
    encoding: str = setting(
        "Of text files: latin-1, cp1252, utf-16, ...", default="utf-8", panel=LAYOUT, metavar="NAME"
    )

    titles: str | None = setting(
        "Item titles.", more="A file, see ``rearec.data.preparation.titles.read_titles``.", panel=TITLES, metavar="FILE"
    )
    title_column: str | None = setting(
        "Their column; without --titles one of the table itself.",
        panel=TITLES,
        metavar="NAME",
        shown="title; yelp: name",
    )
    title_columns: str | None = setting(
        "Names of the columns of that file, if it has no header.", panel=TITLES, metavar="NAME,NAME,..."
    )
    title_separator: str | None = setting(
        "Between its fields.", panel=TITLES, metavar="TEXT", shown="by the file's name"
    )
    title_encoding: str | None = setting("Its encoding.", panel=TITLES, metavar="NAME", shown="as --encoding")
    missing_titles: Literal["error", "keep", "drop", "drop-null"] | None = setting(
        "Items without a title.",
        more="keep goes on without, drop leaves out the rows that involve them, drop-null too, but keeps items whose "
        "title is there and blank.",
        panel=TITLES,
        shown="error",
    )

    memory_limit: str | None = setting(
        "Most memory to take: 4GB, 800MB.",
        more="Interactions are in files, of which blocks are in memory at a time; with a limit the blocks fit into it, "
        "parquet and text tables are read in such blocks, and the floors are those of some users where those of all do "
        "not fit. What is the largest of the rest are the ids of users and items.",
        panel=MEMORY,
        metavar="SIZE",
        shown="blocks of 4 million interactions, floors of all users",
    )
    tmp: str | None = setting(
        "Folder for the interactions on their way.",
        more="They are files without a name, which are gone with the process.",
        panel=MEMORY,
        metavar="DIR",
        shown="that of --out",
    )

    def __post_init__(self) -> None:
        check_options(self)
        # Made here for what they refuse: no assertions, which `python -O` leaves out.
        _ = self.memory, self.layout, self.title_layout

    @property
    def layout(self) -> Layout:
        """How the tables of interactions are written."""
        return Layout(self.separator, self.quoting, self.escape, self.encoding, _names(self.columns))

    @property
    def memory(self) -> int | None:
        """The limit in bytes; None without one."""
        if self.memory_limit is None:
            return None
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", self.memory_limit, re.IGNORECASE)
        if found is None:
            raise UserError(f"--memory-limit {self.memory_limit!r}: expected a size such as 4GB or 800MB")
        unit = 1024 if found[3] else 1000
        size = int(float(found[1]) * unit ** " kmgt".index(found[2].lower() or " "))
        if size < LEAST_MEMORY:
            least = f"{LEAST_MEMORY / 10**6:.0f}MB"
            raise UserError(f"--memory-limit {self.memory_limit}: too little to work with; the least is {least}")
        return size

    @property
    def title_layout(self) -> Layout:
        """How the file with titles is written, if it is a table."""
        encoding = self.title_encoding or self.encoding
        return Layout(self.title_separator, self.quoting, self.escape, encoding, _names(self.title_columns))


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))
