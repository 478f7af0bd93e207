"""Answers to histories in parquet files, part by part: memory holds one part, and a part that is answered stays so."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rearec.data.readers.source_files import find_files
from rearec.errors import UserError, in_one_line
from rearec.files import OutputFolder, open_aside, read_json, write_json

if TYPE_CHECKING:
    import polars as pl

    from rearec.inference.answers import Recommendation

__all__ = ["HISTORY", "Answering", "Part", "Parts", "answer_part"]

HISTORY = "history"
Answering: TypeAlias = "Callable[[list[Any]], list[Recommendation]]"
# Histories that are read and answered at a time.
ROWS = 1 << 16
# What was asked for, written first, and the mark of the end; readers of parquet folders pass such names over.
DESCRIPTION, FINISHED = "_answers.json", "_SUCCESS"
FORMAT_NAME = "rearec-answers"


@dataclass(frozen=True)
class Part:
    """One file of histories, and the file its answers go to; there when they all are."""

    source: Path
    answers: Path

    @property
    def is_answered(self) -> bool:
        """Whether its answers are there."""
        return self.answers.is_file()


class Parts:
    """The files of an input and the folder that their answers go to.

    source: a parquet file, a folder of them (of Hive, too) or a pattern. Each has a column ``history``, lists of ids,
        and whatever else is to stand beside the answers.
    output: a folder, made where there is none.

    Raises:
        UserError: there are no such files, one is unreadable or has no such column, or they differ in their columns.
    """

    def __init__(self, source: Path, output: Path) -> None:
        files = [path for path in find_files([source], "table").paths if path.suffix.lower() in (".parquet", ".pq")]
        if not files:
            raise UserError(f"{source}: no parquet file is there")
        self.output = output
        self._sizes = {str(path): path.stat().st_size for path in files}
        _check_columns(files)
        self.members = [
            Part(path, output / f"part-{number:05d}-{path.stem}.parquet") for number, path in enumerate(files)
        ]

    def begin(self, asked: Mapping[str, Any], *, force: bool) -> list[Part]:
        """Make the folder ready, or go on in it; returns the parts that are not answered yet.

        asked: all that the answers depend on beside the input, as json has it.
        force: whether answers to something else may be replaced.

        Raises UserError where the folder holds something else, or answers to something else and ``force`` is not set.
        """
        wanted = {"format": FORMAT_NAME, "asked": json.loads(json.dumps(asked)), "input": self._sizes}
        description = self.output / DESCRIPTION
        OUTPUT.check(self.output, replace=True)
        if not description.is_file() or read_json(description) != wanted:
            if description.is_file() and not force:
                raise UserError(
                    f"{self.output}: holds answers of another model, to other options or another input; choose another "
                    "folder, or replace them with --force"
                )
            self.output.mkdir(parents=True, exist_ok=True)
            for old in (*self.output.glob("part-*.parquet"), self.output / FINISHED):
                old.unlink(missing_ok=True)
            write_json(description, wanted)
        return [part for part in self.members if not part.is_answered]

    def finish(self) -> None:
        """Mark that all is there."""
        (self.output / FINISHED).touch()


def answer_part(
    answer: Answering,
    part: Part,
    *,
    titles: bool,
    progress: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Write the answers to one part: the rows of its file, with items, scores, unknown, source and titles for history.

    Args:
        answer: makes one of each history: `Recommender.recommend` with its options, or the like.
        titles: whether to write them; the catalogue has to have some.
        progress: called with the number of histories after each bunch of them.

    Returns:
        how many were answered, of "histories", "by_popularity", and of "unknown_items" how many were skipped.

    Raises:
        UserError: a history is missing or holds something else than texts and integers, or a file cannot be read.
    """
    import polars as pl

    counts: Counter[str] = Counter()
    frames: list[pl.DataFrame] = []
    rows = _read(part.source, lambda table: table.select(pl.len())).item()
    for begin in range(0, max(rows, 1), ROWS):  # of no rows, too, the answers have their columns
        frame = _read(part.source, partial(pl.LazyFrame.slice, offset=begin, length=ROWS))
        if frame[HISTORY].null_count():
            row = begin + int(frame[HISTORY].is_null().arg_max() or 0)
            raise UserError(f"{part.source}: row {row + 1}: no history; expected a list of ids, which may be empty")
        answers = answer(frame[HISTORY].to_list())
        frames.append(_beside(frame, answers, titles=titles))
        counts["histories"] += len(answers)
        counts["by_popularity"] += sum(answer.source == "popularity" for answer in answers)
        counts["unknown_items"] += sum(len(answer.unknown) for answer in answers)
        if progress is not None:
            progress(len(answers))
    with open_aside(part.answers, "wb") as file:
        pl.concat(frames).write_parquet(file)
    return counts


def _beside(frame: pl.DataFrame, answers: Sequence[Recommendation], *, titles: bool) -> pl.DataFrame:
    """The answers in place of the histories."""
    import polars as pl

    columns = {
        "items": pl.Series([answer.items for answer in answers], dtype=pl.List(pl.String)),
        "scores": pl.Series([answer.scores for answer in answers], dtype=pl.List(pl.Float64)),
        "unknown": pl.Series([answer.unknown for answer in answers], dtype=pl.List(pl.String)),
        "source": pl.Series([answer.source for answer in answers], dtype=pl.String),
    }
    if titles:
        columns["titles"] = pl.Series([answer.titles for answer in answers], dtype=pl.List(pl.String))
    kept = frame.drop([HISTORY, *(name for name in columns if name in frame.columns)])
    return kept.with_columns(**columns)


def _read(path: Path, chosen: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
    import polars as pl

    try:
        return chosen(pl.scan_parquet(path, hive_partitioning=False)).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file: {in_one_line(error)}") from error


def _check_columns(files: Sequence[Path]) -> None:
    """UserError where a file has no histories, or other columns than the first."""
    import polars as pl

    first: dict[str, Any] = {}
    for path in files:
        schema = dict(_read(path, lambda table: table.head(0)).schema)
        kind = schema.get(HISTORY)
        inner = kind.inner if isinstance(kind, pl.List | pl.Array) else None
        if inner is None or not (inner in (pl.String, pl.Null, pl.Categorical) or inner.is_integer()):
            got = "there is none" if kind is None else f"it holds {kind}"
            raise UserError(f"{path}: column {HISTORY!r}: {got}, expected lists of ids, texts or integers")
        first = first or schema
        if differing := sorted({name for name, _ in schema.items() ^ first.items()}):
            raise UserError(f"{path}: column {differing[0]!r} is not as in {files[0]}; parts need the same columns")


def _is_own(path: Path) -> bool:
    description = path / DESCRIPTION
    try:
        return description.is_file() and read_json(description).get("format") == FORMAT_NAME
    except (UserError, AttributeError):
        return False


OUTPUT = OutputFolder(_is_own, other="holds no answers of 'rearec recommend'; choose another folder")
