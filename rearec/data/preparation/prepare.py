"""From source files to a prepared dataset on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Number
from pathlib import Path
from typing import Any

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation.plan import make_plan
from rearec.data.preparation.steps import build, read_sources
from rearec.data.readers.options import PrepareOptions
from rearec.data.storage import OUTPUT, load_dataset, save_dataset
from rearec.data.tables.arrays import BLOCK_ROWS, Scratch
from rearec.errors import UserError
from rearec.fields import settings

__all__ = ["plain_options", "prepare"]

# What takes memory, in bytes: the libraries, an interaction of a block with all that is made of it, an id.
LIBRARIES, ROW_BYTES, ID_BYTES = 300 * 10**6, 300, 180
# The share of the memory that blocks get; the rest is for ids.
BLOCK_SHARE, LEAST_ROWS = 0.4, 1 << 16


def prepare(
    format: str,
    sources: Sequence[str | Path],
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
    **changes: Any,
) -> SequenceDataset:
    """Read interactions, filter them as asked, split them and write a prepared dataset. Nothing is filtered unasked.

    Args:
        format: one of ``FORMATS``.
        sources: files, folders or patterns, read one after the other. Of "amazon2023" and "yelp" one of them may hold
            the items (meta and business json): it is ``titles`` then.
        out: the directory to write; written aside first and renamed at the end.
        options: see `PrepareOptions`.
        force: replace an existing prepared dataset.
        progress: called with a line on what is being done.
        changes: fields of `PrepareOptions` that differ from ``options``.

    Returns:
        The dataset, opened from ``out``. Its ``source["findings"]`` says what was found on the way: the split and why,
        what orders the events, the columns not used, what looks wrong.

    Raises:
        UnexpectedCounts: ``expect`` is given and the counts differ; nothing is written.
        UserError: a file, a value, an option or their combination is wrong; the message says which and where.

    Examples:
        >>> import pathlib, tempfile
        >>> from rearec.data import prepare
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "clicks.csv").write_text("user,item,timestamp\\nann,a,1\\nann,b,2\\nann,c,3\\nann,d,4\\n")
        >>> dataset = prepare("table", [folder / "clicks.csv"], folder / "data")
        >>> dataset.num_items, dataset.source["findings"]["not used"]
        (4, 'none of the columns (used: user, item, timestamp)')
    """
    out = Path(out)
    say = progress or (lambda message: None)
    plan = make_plan(format, sources, replace(options or PrepareOptions(), **plain_options(changes)))
    OUTPUT.check(out, replace=force)

    scratch = _scratch(plan.options, out)
    dataset = build(plan, *read_sources(plan, say, scratch), say, scratch)
    say(f"writing {out}")
    save_dataset(dataset, out, force=force)
    return load_dataset(out)


def _scratch(options: PrepareOptions, out: Path) -> Scratch:
    """Files in the folder that the options say, or else in that of the output, and blocks that fit into the memory.

    Raises:
        UserError: there is no such folder, or no file can be made in it.
    """
    folder = next(parent for parent in Path(os.path.abspath(out)).parents if parent.exists())
    if options.tmp is not None:
        folder = Path(options.tmp)
        if not folder.is_dir():
            raise UserError(f"--tmp {folder}: no such folder")
    if options.memory is None:
        return Scratch(folder, BLOCK_ROWS)
    left = options.memory - LIBRARIES
    block_rows = max(LEAST_ROWS, min(BLOCK_ROWS, int(left * BLOCK_SHARE) // ROW_BYTES))
    return Scratch(folder, block_rows, int(left * (1 - BLOCK_SHARE)) // ID_BYTES)


def plain_options(changes: dict[str, Any]) -> dict[str, Any]:
    """Values as the options hold them: paths as text, thresholds as text, several words as a tuple."""
    result = dict(changes)
    said = settings(PrepareOptions)
    for name, value in changes.items():
        if name in ("where", "missing") and not isinstance(value, str | list | tuple):
            raise UserError(f"{name}: got {value!r}, expected a text or several in a list")
        if isinstance(value, Number) and name in said and said[name].accepts(value):
            result[name] = said[name].plain(value)  # NumPy's, which json does not take
        if isinstance(value, Path) or (name in ("valid_from", "test_from") and value is not None):
            result[name] = str(value)
        elif name in ("where", "missing"):
            result[name] = (value,) if isinstance(value, str) else tuple(value)
    return result
