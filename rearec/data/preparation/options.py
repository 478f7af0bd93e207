"""Options of ``prepare``, each in one place; free of imports that cost, so that the command line is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rearec.data.tables.layout import Layout, Quoting
from rearec.fields import check_fields, setting

__all__ = ["FORMATS", "SPLITS", "Duplicates", "Format", "MissingTitles", "PrepareOptions", "Preset", "Split"]

Format = Literal["amazon2023", "json", "lines", "recbole", "sasrec", "table", "yelp"]
Split = Literal["leave-one-out", "timestamp", "time-span", "given"]
Duplicates = Literal["keep", "first", "error"]
MissingTitles = Literal["error", "keep", "drop", "drop-null"]
Preset = Literal["baby", "cds", "software", "video-games", "yelp"]

FORMATS: tuple[Format, ...] = get_args(Format)
SPLITS: tuple[Split, ...] = get_args(Split)

SPLIT, INTERACTIONS, ROWS = "Split", "Filters on interactions", "Filters on rows"
COLUMNS, LAYOUT, TITLES = "Columns", "How the files are written", "Titles"


@dataclass(frozen=True)
class PrepareOptions:
    """How a dataset is prepared. An option that is None is that of the preset, without one its plain default.

    The order: what a row must be to count (``where``, ``item_pattern``, ``missing``, ``drop_incomplete``), then
    ``min_rating``, ``duplicates``, core, split, then the filters on rows (``missing_titles="drop"``,
    ``min_target_rating``, the history lengths, ``known_items``). A filter on rows drops predictions, not interactions:
    histories keep all their items. Ties in time keep the order of the source.

    Attributes:
        preset: a dataset of the paper: its filters and, where the source is not split yet, its split. The only one
            of "yelp" holds without being named.
        expect: compare the counts with those that were published of the preset's dataset.
        split: None: "given" where the files' names say train, valid and test or the files hold histories,
            "leave-one-out" otherwise.
        valid_from, test_from: thresholds of the split "timestamp": rows from then on are valid, test; or of the split
            "time-span": rows after these shares of the time from the first to the last interaction are.
        carve_valid: of a given split without valid file, each user's last train row becomes his valid row.
        where: conditions ``column=value``, ``column=value,value``, ``column!=value``, or with < <= > >= and a number;
            a row must meet all.
        missing: tokens that stand for a missing user, item, rating or timestamp; rows without user, item or timestamp
            for that reason are dropped.
        drop_incomplete: also drop the rows where one of them is empty, instead of refusing the file.
        min_rating: drop interactions with a lower rating.
        duplicates: repeated (user, item) pairs: "keep" all, only the "first" in time, or "error".
        core: drop users and items with fewer interactions, iterated until none is left; ``user_core`` and
            ``item_core`` say it for users and items alone.
        min_target_rating: drop rows whose target has a lower rating.
        min_train_history, min_eval_history: drop rows with a shorter history, in train and in valid and test.
        known_items: drop valid and test rows with a target or history item that occurs in no train row.
        user_column, item_column: names of the columns ("table", "recbole"); "user_id" or "user", "item_id" or "item".
        rating_column: "rating" is used where it exists, a column that is named must exist.
        timestamp_column: likewise "timestamp"; several with commas between: what is equal in the first is ordered by
            the second, a time of day is added to its date.
        timestamps: False: the files are in time order; no column of theirs is used for it.
        time_format: how times are written, in the letters of strftime; "number": numbers are never dates.
        item_pattern: a regular expression; items that it does not match in full are dropped, its first group is the id.
        lists: a row holds the list of its user's items, separated by commas, blanks or bars.
        columns: the names of the columns of text tables without a header.
        separator, quoting, escape, encoding: see `Layout`.
        titles: a file with item titles, see ``rearec.data.preparation.titles.read_titles``.
        title_column: its column or field with the title; "title" unless given, or "name" for "yelp".
        title_columns, title_separator, title_encoding: as ``columns``, ``separator`` and ``encoding``, of the file with
            titles.
        missing_titles: for an item without a title: "error", "keep" it without one, or "drop" rows that involve it;
            "drop-null" keeps items whose title is there and blank.
    """

    preset: str | None = setting("amazon2023: filters and split of the paper; single options override.", choices=Preset)
    expect: bool = setting("Fail unless the counts are the published ones of the preset.", default=False)

    split: str | None = setting(
        "How rows become train, valid and test.",
        panel=SPLIT,
        choices=Split,
        shown="given where file names say train, valid, test; else leave-one-out",
    )
    valid_from: str | None = setting(
        "timestamp: first time of validation; time-span: share before it.", panel=SPLIT, metavar="TIME"
    )
    test_from: str | None = setting("The same of the test.", panel=SPLIT, metavar="TIME")
    carve_valid: bool = setting(
        "Files for train and test only: each user's last train row is for validation.", default=False, panel=SPLIT
    )

    where: tuple[str, ...] = setting(
        "Only rows with this value: event=view; event=view,cart; label!=0; price>=10. May be repeated.",
        default=(),
        panel=INTERACTIONS,
        metavar="COLUMN=VALUE",
    )
    missing: tuple[str, ...] = setting(
        "Drop rows whose user, item or time is this, such as NA. May be repeated.",
        default=(),
        panel=INTERACTIONS,
        metavar="TOKEN",
    )
    drop_incomplete: bool = setting(
        "Drop rows without a user, item or time instead of refusing the file.", default=False, panel=INTERACTIONS
    )
    min_rating: float | None = setting("Drop interactions rated lower.", panel=INTERACTIONS)
    duplicates: str | None = setting(
        "Repeated (user, item) pairs.", panel=INTERACTIONS, choices=Duplicates, shown="keep"
    )
    core: int | None = setting("Drop users and items with fewer, until none is left.", panel=INTERACTIONS, at_least=1)
    user_core: int | None = setting("The core of users alone.", panel=INTERACTIONS, at_least=1)
    item_core: int | None = setting("The core of items alone.", panel=INTERACTIONS, at_least=1)

    min_target_rating: float | None = setting("Drop rows whose target is rated lower.", panel=ROWS)
    min_train_history: int | None = setting(
        "Drop train rows with a shorter history.", panel=ROWS, at_least=0, shown="0"
    )
    min_eval_history: int | None = setting(
        "Drop valid and test rows with a shorter history.", panel=ROWS, at_least=0, shown="0"
    )
    known_items: bool | None = setting(
        "Drop valid and test rows with items not in train.",
        panel=ROWS,
        flags="--known-items/--all-items",
        shown="all-items",
    )

    user_column: str | None = setting("Users.", panel=COLUMNS, metavar="NAME", shown="user_id or user")
    item_column: str | None = setting("Items.", panel=COLUMNS, metavar="NAME", shown="item_id or item")
    rating_column: str | None = setting("Ratings.", panel=COLUMNS, metavar="NAME", shown="rating, if there is one")
    timestamp_column: str | None = setting(
        "Times; with NAME,NAME the second orders what is equal in the first.",
        panel=COLUMNS,
        metavar="NAME",
        shown="timestamp, if there is one",
    )
    timestamps: bool = setting(
        "The rows are in time order; use no column for it.", default=True, panel=COLUMNS, flags=" /--no-timestamps"
    )
    time_format: str | None = setting(
        "How times are written: '%d/%m/%Y %H:%M'; number: no dates.", panel=COLUMNS, metavar="FORMAT"
    )
    item_pattern: str | None = setting(
        "Drop items that this does not match; its first group is the id.", panel=COLUMNS, metavar="REGEX"
    )
    lists: bool = setting("table: a row has a list of items (and times).", default=False, panel=COLUMNS)

    columns: str | None = setting(
        "Names of the columns of text tables without a header.", panel=LAYOUT, metavar="NAME,NAME,..."
    )
    separator: str | None = setting(
        "Between fields: ',' '::' '\\t' space '\\s+'.", panel=LAYOUT, metavar="TEXT", shown="by the file's name"
    )
    quoting: Quoting = setting(
        "auto: quotes as csv has them, doubtful ones are refused; csv: as they come; none: quotes are characters.",
        default="auto",
        panel=LAYOUT,
        choices=Quoting,
        shown=True,
    )
    escape: str | None = setting(
        "The character before a quote inside quotes; doubled quotes otherwise.", panel=LAYOUT, metavar="CHARACTER"
    )
    encoding: str = setting(
        "Of text files: latin-1, cp1252, utf-16, ...", default="utf-8", panel=LAYOUT, metavar="NAME", shown=True
    )

    titles: str | None = setting("Item titles.", panel=TITLES, metavar="FILE")
    title_column: str | None = setting("Their column.", panel=TITLES, metavar="NAME", shown="title; yelp: name")
    title_columns: str | None = setting(
        "Names of the columns of that file, if it has no header.", panel=TITLES, metavar="NAME,NAME,..."
    )
    title_separator: str | None = setting(
        "Between its fields.", panel=TITLES, metavar="TEXT", shown="by the file's name"
    )
    title_encoding: str | None = setting("Its encoding.", panel=TITLES, metavar="NAME", shown="as --encoding")
    missing_titles: str | None = setting("Items without a title.", panel=TITLES, choices=MissingTitles, shown="error")

    def check(self) -> None:
        """Look at each value for itself.

        Raises:
            UserError: one is none of the words, out of its range, or of no use in reading a table.
        """
        check_fields(self)
        # A layout looks at itself when it is made.
        assert self.layout and self.title_layout

    @property
    def layout(self) -> Layout:
        """How the tables of interactions are written."""
        return Layout(self.separator, self.quoting, self.escape, self.encoding, _names(self.columns))

    @property
    def title_layout(self) -> Layout:
        """How the file with titles is written, if it is a table."""
        encoding = self.title_encoding or self.encoding
        return Layout(self.title_separator, self.quoting, self.escape, encoding, _names(self.title_columns))


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))
