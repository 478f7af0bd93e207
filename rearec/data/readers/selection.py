"""From a table to its usable rows: which columns are meant, which rows count, lists spread out over rows."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from rearec.data.readers.conditions import condition_columns, is_any_of, parse_conditions
from rearec.data.readers.options import PrepareOptions
from rearec.data.tables.table import Table
from rearec.data.tables.times import looks_like_times, parse_times
from rearec.errors import UserError

__all__ = ["Decisions", "Roles", "UnlikeBlocks", "find_roles", "id_columns", "select_rows", "wanted_columns"]

USER_NAMES, ITEM_NAMES = ("user_id", "user"), ("item_id", "item")
LIST_SEPARATORS = (",", "|", ";")


class UnlikeBlocks(Exception):
    """A file is to be read as a whole: its blocks, each by itself, would be taken for different things."""

    def __init__(self, path: Path) -> None:
        self.path = path


class Decisions:
    """What was decided of the first block of a file, and holds for the next ones.

    Args:
        path: the file.
        known: all of it is one block.
    """

    def __init__(self, path: Path, known: bool) -> None:
        self.path = path
        self.known = known
        self._made: dict[str, object] = {}

    def check(self, what: str, decided: object) -> None:
        """`UnlikeBlocks` where another block was decided otherwise."""
        if self._made.setdefault(what, decided) != decided and not self.known:
            raise UnlikeBlocks(self.path)

    def need_all(self) -> None:
        """`UnlikeBlocks` where a block is only a part of the file."""
        if not self.known:
            raise UnlikeBlocks(self.path)


@dataclass(frozen=True)
class Roles:
    """The columns that hold users, items, ratings (None: there are none) and times (empty: the rows are in order)."""

    user: str
    item: str
    rating: str | None
    times: tuple[str, ...]

    @property
    def required(self) -> list[str]:
        """The columns in which a row must have a value."""
        return [self.user, self.item, *self.times]

    @property
    def all(self) -> list[str]:
        """All of the columns."""
        return [*self.required, *([self.rating] if self.rating else [])]


def wanted_columns(options: PrepareOptions) -> list[str]:
    """The columns of a table that may be used."""
    roles = (*USER_NAMES, options.user_column, *ITEM_NAMES, options.item_column, "rating", options.rating_column)
    times = ("timestamp", options.timestamp_column, *(options.timestamp_column or "").split(","))
    return [name for name in dict.fromkeys((*roles, *times, *condition_columns(options.where))) if name]


def id_columns(options: PrepareOptions) -> list[str]:
    """The columns that may hold ids of users or items."""
    return [name for name in (*USER_NAMES, options.user_column, *ITEM_NAMES, options.item_column) if name]


def find_roles(table: Table, options: PrepareOptions) -> Roles:
    """The columns of a table that are meant: those that are named, or those of the usual names.

    Raises:
        UserError: a column that looks like times would not be used.
    """
    user = options.user_column or next((name for name in USER_NAMES if table.has(name)), USER_NAMES[0])
    item = options.item_column or next((name for name in ITEM_NAMES if table.has(name)), ITEM_NAMES[0])
    rating = options.rating_column or ("rating" if table.has("rating") else None)
    times: tuple[str, ...] = ()
    if options.timestamp_column is not None:
        whole = table.has(options.timestamp_column)
        names = [options.timestamp_column] if whole else options.timestamp_column.split(",")
        times = tuple(name.strip() for name in names)
    elif options.timestamps and table.has("timestamp"):
        times = ("timestamp",)
    if len(times) > 2:
        raise UserError(f"--timestamp-column {options.timestamp_column!r}: one column or two, got {len(times)}")
    roles = Roles(user, item, rating, times)
    if not times and options.timestamps and table.has(user) and table.has(item):
        _refuse_unused_times(table, roles)
    return roles


def _refuse_unused_times(table: Table, roles: Roles) -> None:
    used = set(roles.all)
    for name in table.sample.columns:
        if name not in used and looks_like_times(name, table.sample[name]):
            raise UserError(
                f"{table.path}: column {name!r} looks like times and is not used: --timestamp-column {name} orders the "
                "events by it, --no-timestamps takes the order of the file"
            )


def select_rows(
    table: Table, roles: Roles, options: PrepareOptions, dropped: Counter[str], decisions: Decisions
) -> Table:
    """The rows that count, a row each interaction; ``dropped`` is told how many went, and why.

    Raises:
        UserError: a column is missing, or lists of one row do not fit together.
        UnlikeBlocks: the table is a part of its file and all of it has to be known.
    """
    arrays = [name for name in table.frame.columns if isinstance(table.frame[name].dtype, pl.Array)]
    table = replace(table, frame=table.frame.with_columns(table.frame[name].arr.to_list() for name in arrays))
    conditions = parse_conditions(options.where)
    listed = [condition for condition in conditions if isinstance(table.column(condition.column).dtype, pl.List)]
    for condition in conditions:
        if condition not in listed:
            values = table.column(condition.column)
            if condition.depends_on_all:
                decisions.check(str(condition), condition.are_flags(values))
            table = _drop(table, condition.met(values), f"not {condition}", dropped)
    table = _spread_lists(table, roles, [condition.column for condition in listed], options, decisions)
    for condition in listed:
        table = _drop(table, condition.met(table.column(condition.column)), f"not {condition}", dropped)
    if options.item_pattern is not None:
        table = _match_items(table, roles.item, options.item_pattern, dropped)
    if options.missing:
        marked = [_is_missing(table.column(name), options.missing).alias(name) for name in roles.all]
        absent = pl.DataFrame(marked)
        table = replace(
            table,
            frame=table.frame.with_columns(
                pl.when(absent[name]).then(None).otherwise(table.frame[name]).alias(name) for name in roles.all
            ),
        )
        any_marked = absent.select(pl.any_horizontal(roles.required)).to_series()
        table = _drop(table, ~any_marked, f"missing by --missing {', '.join(options.missing)}", dropped)
    if options.drop_incomplete:
        filled = [_is_filled(table.column(name)).alias(name) for name in roles.required]
        complete = pl.DataFrame(filled).select(pl.all_horizontal(pl.all())).to_series()
        table = _drop(table, complete, "without a user, an item or a time", dropped)
    return table


def _drop(table: Table, kept: pl.Series, why: str, dropped: Counter[str]) -> Table:
    dropped[why] += len(kept) - int(kept.sum())
    return table if kept.all() else table.take(kept)


def _is_missing(values: pl.Series, tokens: Sequence[str]) -> pl.Series:
    return is_any_of(values.cast(pl.String, strict=False), tokens).fill_null(False)


def _is_filled(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        return (values.str.strip_chars() != "").fill_null(False)
    return values.is_not_null() & (values.is_not_nan() if values.dtype.is_float() else True)


def _match_items(table: Table, item: str, pattern: str, dropped: Counter[str]) -> Table:
    tokens = table.column(item).cast(pl.String)
    try:
        groups = re.compile(pattern).groups
        found = tokens.str.extract(f"^(?:{pattern})$", 1) if groups else tokens.filter(
            tokens.str.contains(f"^(?:{pattern})$"))  # fmt: skip
    except (re.error, pl.exceptions.PolarsError) as error:
        raise UserError(f"--item-pattern {pattern!r}: no regular expression: {str(error).splitlines()[0]}") from None
    if groups == 0:
        kept = tokens.str.contains(f"^(?:{pattern})$").fill_null(False)
    else:
        kept = found.is_not_null()
        table = replace(table, frame=table.frame.with_columns(found.alias(item)))
    return _drop(table, kept, f"not of the form --item-pattern {pattern}", dropped)


def _spread_lists(
    table: Table, roles: Roles, further: Sequence[str], options: PrepareOptions, decisions: Decisions
) -> Table:
    """A row per item where a row holds a list of them; ratings, times and ``further`` may be lists of that length."""
    names = [name for name in dict.fromkeys((*roles.all, *further)) if name != roles.user and table.has(name)]
    frame = table.frame
    if options.lists and any(frame[name].dtype == pl.String for name in names):
        decisions.need_all()
    if options.lists:
        split = {name: _split_text(frame[name]) for name in names}
        items = split[roles.item].list.len() if roles.item in split else None
        # A time of its own may have blanks in it: what is one, or has another number of pieces, is for the whole row.
        single = [name for name in roles.times if name in names and _are_times(frame[name], options.time_format)]
        fitting = [
            values
            for name, values in split.items()
            if name == roles.item or (name not in single and _fits(values, items))
        ]
        frame = frame.with_columns(fitting)
    elif _are_text_lists(table, roles):
        decisions.need_all()
        items = _split_text(frame[roles.item])
        fitting = [_split_text(frame[name]) for name in names if name != roles.item]
        frame = frame.with_columns(items, *(values for values in fitting if _fits(values, items.list.len())))
    lists = [name for name in names if isinstance(frame[name].dtype, pl.List)]
    if not lists:
        return table
    if roles.item not in lists:
        raise UserError(f"{table.path}: column {lists[0]!r} holds lists, but the items in {roles.item!r} are none")
    table.column(roles.user)
    lengths = frame[roles.item].list.len().fill_null(0)
    for name in lists:
        other = frame[name].list.len().fill_null(0)
        if (other != lengths).any():
            index = int((other != lengths).arg_max() or 0)
            place = f"{table.path}: row {table.rows[index]}"
            raise UserError(f"{place}: {lengths[index]} values in {roles.item!r}, but {other[index]} in {name!r}")
    rows = np.repeat(table.rows, lengths.to_numpy())
    return replace(table, frame=frame.filter(lengths > 0).explode(lists), rows=rows)


def _fits(values: pl.Series, lengths: pl.Series | None) -> bool:
    return lengths is not None and isinstance(values.dtype, pl.List) and bool((values.list.len() == lengths).all())


def _are_times(values: pl.Series, time_format: str | None) -> bool:
    return values.dtype == pl.String and not parse_times(values.str.strip_chars(), time_format)[0].has_nulls()


def _are_text_lists(table: Table, roles: Roles) -> bool:
    """Whether text holds lists unasked: that of the times must, in every row as many as there are items."""
    if not roles.times or not all(table.has(name) for name in (roles.item, *roles.times)):
        return False
    columns = [table.frame[name] for name in (roles.item, *roles.times)]
    if any(column.dtype != pl.String for column in columns):
        return False
    pattern = r"^\s*[\[(]?\s*[+-]?\d+(\.\d+)?(\s*[,|; ]\s*[+-]?\d+(\.\d+)?)*\s*[\])]?\s*$"
    times = columns[1].drop_nulls()
    if (
        len(times) == 0
        or not times.str.contains(pattern).all()
        or not times.str.contains(r"\d\s*[,|; ]\s*[\d+-]").any()
    ):
        return False
    first, *others = (_split_text(column).list.len() for column in columns)
    return all(bool((first == other).all()) for other in others)


def _split_text(values: pl.Series) -> pl.Series:
    """Text such as '[1, 2]', '1,2', '1|2' or '1 2' as lists of text."""
    if values.dtype != pl.String:
        return values
    text = values.str.strip_chars().str.replace(r"(?s)^[\[(](.*)[\])]$", "$1").str.strip_chars()
    separator = next((mark for mark in LIST_SEPARATORS if text.str.contains(mark, literal=True).any()), None)
    if separator is None:
        text, separator = text.str.replace_all(r"\s+", " "), " "
    pieces = pl.DataFrame(text).select(
        pl.when(pl.col(text.name) == "")
        .then(pl.lit([], dtype=pl.List(pl.String)))
        .otherwise(
            pl.col(text.name)
            .str.split(separator)
            .list.eval(pl.element().str.strip_chars().str.replace(r"^(['\"])(.*)['\"]$", "$2"))
        )
        .alias(text.name)
    )
    lists = pieces.to_series()
    # A quote that stands alone was cut off its text, which holds the separator itself.
    cut = pl.element().str.contains(r"^['\"]") != pl.element().str.contains(r"['\"]$")
    odd = lists.list.eval(cut).list.any().fill_null(False)
    if not odd.any():
        return lists
    literal = [_literal_list(value) if is_odd else None for value, is_odd in zip(values, odd, strict=True)]
    return pl.Series(
        lists.name,
        [part if part is not None else old for part, old in zip(literal, lists, strict=True)],
        dtype=pl.List(pl.String),
    )


def _literal_list(text: str) -> list[str] | None:
    """A list as json or Python writes it, None where it is none."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, (list, tuple)):
            return [str(part) for part in value]
    return None
