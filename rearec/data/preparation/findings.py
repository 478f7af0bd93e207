"""What a preparation tells of its own accord: the split, the order, the columns left aside, what looks wrong."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.data.tables.arrays import BLOCK_ROWS, Array, count_codes, in_blocks
from rearec.errors import some_of

__all__ = ["describe_findings"]

# How a missing value is spelled; ids can be called so, too.
MISSING = {"", "na", "n/a", "<na>", "#n/a", "nan", "null", "none", "nil", "\\n", "\\\\n", "-1", "-1.0", "undefined"}
MISSING |= {"missing", "?", "-", "nat", "(null)", "[null]"}
# More events than this share of all are not those of one user or item.
LARGE_SHARE = 0.1
# What stands around ids that were cut at the wrong place.
REMNANTS = " \t\"'`,;:|()[]{}"
LISTED = re.compile(r"[\[(]?\s*['\"]?[\w-]+['\"]?(\s*[,|]\s*['\"]?[\w-]+['\"]?)+\s*[\])]?")
ROUNDED = re.compile(r"\d(\.\d+)?E\+\d\d")
# From 1973 on, in what the timestamps count.
LATE = {"number": 10**8, "us": 10**14, "ns": 10**17}


def describe_findings(
    source: Interactions | HistoryRows,
    ordered: Interactions | HistoryRows,
    split: str,
    removed: str = "",
    unused: str = "",
    rows: int = BLOCK_ROWS,
) -> dict[str, str]:
    """The four lines, by the words "split", "order", "not used" and "suspicious"; before them, where there is anything
    to say, "removed" and "unused users".

    Args:
        source: as it was read.
        ordered: what is left of it after the filters, by user, then time.
        split: the split, and why.
        removed: what the filters removed; empty: nothing.
        unused: which users are in few rows or in none (`rearec.data.preparation.blockwise.Tally.unused_users`).
        rows: most interactions that are looked at at a time.
    """
    return {
        **{name: text for name, text in (("removed", removed), ("unused users", unused)) if text},
        "split": split,
        "order": _describe_order(ordered, rows),
        "not used": _describe_unused(source),
        "suspicious": _describe_suspects(source),
    }


def _describe_order(source: Interactions | HistoryRows, rows: int) -> str:
    if isinstance(source, HistoryRows):
        return "that of the histories in the files"
    if source.times is None:
        count = len(source.place.files)
        of_files = (
            f"the {source.reading.kind}"
            if count == 1
            else f"the files, {', '.join(path.name for path in source.place.files[:4])}"
        )
        more = ", ..." if count > 4 else ""
        return f"no timestamp column: that of the rows of {of_files}{more} is taken"
    columns = " then ".join(repr(name) for name in source.reading.times)
    neighbours, tied = 0, 0
    for part in source.user_blocks(rows):
        some = source.part_of(part)
        assert some.times is not None
        user = some.user[:]
        same = user[1:] == user[:-1]
        neighbours += int(same.sum())
        for key in some.times.sort_keys():
            same &= key[1:] == key[:-1]
        tied += int(same.sum())
    share = tied / max(1, neighbours)
    what = "of neighbouring events in one history have equal timestamps"
    if share == 0:
        return f"column {columns}; 0 % {what}"
    return f"column {columns}; {_percent(share)} {what}: their order is that of the {source.reading.kind}"


def _percent(share: float) -> str:
    return "under 0.1 %" if 0 < share < 0.001 else f"{100 * share:.3g} %"


def _describe_unused(source: Interactions | HistoryRows) -> str:
    reading = source.reading
    used = f" (used: {', '.join(reading.columns)})" if reading.columns else ""
    return f"{some_of(reading.unused, 12) or 'none of the columns'}{used}"


def _describe_suspects(source: Interactions | HistoryRows) -> str:
    found = [f"dropped {count:,} rows {why}" for why, count in source.reading.dropped.items()]
    events = {"user": (source.user, source.user_ids), "item": (_items(source), source.item_ids)}
    for what, (codes, tokens) in events.items():
        counts = count_codes(codes, len(tokens))
        found += _missing_values(what, tokens, counts)
        found += _large_shares(what, tokens, counts)
        found += _twins(what, tokens)
        found += _remnants(what, tokens)
    if isinstance(source, Interactions) and source.times is not None:
        found += _odd_times(source)
    return "; ".join(found) or "nothing"


def _items(source: Interactions | HistoryRows) -> Array:
    if isinstance(source, Interactions):
        return source.item
    return source.items[source.offsets[1:] - 1]


def _missing_values(what: str, tokens: Sequence[str], counts: NDArray[np.int64]) -> list[str]:
    result = []
    total = int(counts.sum())
    for code, token in enumerate(tokens):
        if token.strip().lower() in MISSING and counts[code]:
            share = f"{_percent(counts[code] / total)} of all interactions ({counts[code]:,} of {total:,})"
            option = f"--missing {token}" if token.strip() else "--drop-incomplete"
            result.append(f"{what} {token!r} holds {share}: a missing value? {option} drops such rows")
    return result


def _large_shares(what: str, tokens: Sequence[str], counts: NDArray[np.int64]) -> list[str]:
    total = int(counts.sum())
    large = np.flatnonzero(counts > LARGE_SHARE * total)
    large = large[np.argsort(-counts[large], kind="stable")]
    named = [code for code in large.tolist() if tokens[code].strip().lower() not in MISSING]
    shares = [f"{tokens[code]!r} {_percent(counts[code] / total)}" for code in named]
    return [f"{what}s with over 10 % of all events: {some_of(shares)}"] if shares else []


def _twins(what: str, tokens: Sequence[str]) -> list[str]:
    result = []
    fractions = [token for token in tokens if token.endswith(".0") and token[:-2].lstrip("-").isdecimal()]
    known = set(tokens) if fractions else set()
    beside = [token for token in fractions if token[:-2] in known]
    if beside:
        example = f"{beside[0]!r} and {beside[0][:-2]!r}"
        result.append(f"{len(beside):,} {what}s occur with and without .0, such as {example}")
    elif fractions and len(fractions) == len(tokens):
        result.append(f"all {what}s end in .0, such as {fractions[0]!r}: whole numbers that were once floats")
    first: dict[str, str] = {}
    pairs = []
    # Of two that look alike one is not plain: few are, and no others are remembered.
    forms = {token: _canonical(token) for token in tokens if not _is_plain(token)}
    alike = set(forms.values())
    for token in tokens if alike else ():
        form = forms.get(token, token)
        twin = first.setdefault(form, token) if form in alike else token
        if twin is not token:
            pairs.append((twin, token))
    if pairs:
        # In ASCII, which shows what the eye does not see.
        example = f"{pairs[0][0]!a} and {pairs[0][1]!a}"
        result.append(f"{len(pairs):,} pairs of {what}s differ by blanks or Unicode form alone, such as {example}")
    return result


def _is_plain(token: str) -> bool:
    return token.isascii() and token.isprintable() and " " not in token


def _remnants(what: str, tokens: Sequence[str]) -> list[str]:
    """Signs that another layout was meant, and ids that a spreadsheet has rounded."""
    result = []
    for place, sign in (("begin with", 0), ("end in", -1)):
        mark = tokens[0][sign]
        if mark in REMNANTS and all(token[sign] == mark for token in tokens):
            result.append(f"all {what}s {place} {mark!r}, such as {tokens[0]!r}")
    lists = [token for token in tokens if LISTED.fullmatch(token)]
    if what == "item" and 2 * len(lists) > len(tokens):
        result.append(f"items that look like lists: {len(lists):,}, such as {lists[0]!r}: --lists reads them")
    rounded = [token for token in tokens if ROUNDED.fullmatch(token)]
    if rounded:
        example = f"such as {rounded[0]!r}: numbers that a spreadsheet has rounded"
        result.append(f"{what}s written with an exponent: {len(rounded):,}, {example}")
    return result


def _canonical(token: str) -> str:
    """Without what the eye does not see: the form of its characters, blanks around and between, marks of no width."""
    composed = unicodedata.normalize("NFKC", token)
    return " ".join("".join(mark for mark in composed if unicodedata.category(mark) != "Cf").split())


def _odd_times(source: Interactions) -> list[str]:
    assert source.times is not None
    empty, earliest = 0, None
    for (values,) in in_blocks(source.times.values):
        positive = values[values > 0]
        empty += len(values) - len(positive)
        if len(positive):
            earliest = positive.min() if earliest is None else min(earliest, positive.min())
    if empty and earliest is not None and earliest >= LATE[source.times.unit]:
        least = 0 if source.times.unit == "number" else "1970-01-01"
        return [f"{empty:,} timestamps are {least} or less, all others {source.times.name(earliest)} or more"]
    return []
