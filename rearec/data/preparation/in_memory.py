"""The dataset as Python users make it: of a frame or of files, split, saved, loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation.plan import decide, make_plan
from rearec.data.preparation.prepare import plain_options
from rearec.data.preparation.python_words import python_errors
from rearec.data.preparation.resplit import Origin, split_again, split_stored
from rearec.data.preparation.steps import build, read_sources, refuse_nothing
from rearec.data.readers.conditions import condition_columns
from rearec.data.readers.formats import SOURCE_FORMATS
from rearec.data.readers.options import PrepareOptions, Split
from rearec.data.readers.source_files import SourceFiles, ending
from rearec.data.storage import load_dataset, save_dataset
from rearec.errors import UserError

__all__ = ["Dataset"]

# What the roles of columns are called here.
ROLES = {"user_column": "user", "item_column": "item", "timestamp_column": "time", "rating_column": "rating"}
# Options about files alone.
OF_FILES = (
    *("preset", "expect", "carve_valid", "columns", "separator", "quoting", "escape", "encoding"),
    *("title_columns", "title_separator", "title_encoding", *ROLES),
)
# Endings that more than one format has, and that are a table unless its columns say otherwise.
TABLES = (".csv", ".tsv", ".tab", ".parquet", ".pq", ".jsonl", ".ndjson")


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(SequenceDataset):
    """Users' histories and the predictions to make in them: a `SequenceDataset` that is made and split in Python.

    What ``rearec prepare`` does with files, `from_frame` and `from_files` do in memory, with the same checks, filters
    and findings: ``source["findings"]`` says what was found on the way, ``source["removed"]`` what each filter removed.

    Attributes:
        origin: the interactions as they were read, from which `split` makes other splits; None of a stored dataset.

    Examples:
        >>> from rearec.data import Dataset
        >>> clicks = {"who": [7, 7, 7, 7, 8, 8, 8], "what": ["a", "b", "c", "d", "b", "c", "a"], "when": range(7)}
        >>> dataset = Dataset.from_frame(clicks, user="who", item="what", time="when")
        >>> dataset
        Dataset(2 users, 4 items, 7 interactions; rows: train 1, valid 2, test 2)
        >>> dataset.user_ids, dataset.source["findings"]["not used"]
        (['7', '8'], 'none of the columns (used: who, what, when)')
        >>> dataset.split("timestamp", valid_from=3, test_from=5)
        Dataset(2 users, 4 items, 7 interactions; rows: train 2, valid 2, test 2)
        >>> dataset.save("clicks")
        >>> Dataset.load("clicks").num_items
        4
    """

    origin: Origin | None = field(default=None, repr=False)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        user: str,
        item: str,
        time: str | tuple[str, str] | None = None,
        rating: str | None = None,
        titles: Any = None,
        split: Split | None = None,
        **options: Any,
    ) -> Dataset:
        """The dataset of a frame with a row for each interaction; nothing is filtered unless asked.

        Ids are text or whole numbers and become text (7 is "7"); whole numbers in floats, as pandas stores integers
        beside missing values, become integers first. A row without a user, an item or a time is an error, unless
        ``drop_incomplete=True``. Messages count rows by position, from 0.

        Args:
            frame: a data frame of pandas or polars (lazy too), a pyarrow table, or a dict of columns.
            user, item: the columns of ids.
            time: the column of times, or two of which the second orders what is equal in the first; numbers or dates.
                None: the column "timestamp", if there is one, else the order of the rows, which a column that looks
                like times forbids (``timestamps=False`` allows it).
            rating: the column of ratings; None: "rating", if there is one.
            titles: the column of the items' titles, or the titles apart: a mapping or a series by item, a frame with
                the columns ``item`` and "title" (or ``title_column=``), or the path of a file.
            split: "leave-one-out" (None is the same), "timestamp" or "time-span", with ``valid_from=``, ``test_from=``.
            options: further fields of `PrepareOptions`, such as ``core=5``.

        Raises:
            UserError: the frame is none, a column is missing, or a value, an option or their combination is wrong.
        """
        from rearec.data.preparation.frames import FRAME, frame_table, title_mapping
        from rearec.data.readers.builders import InteractionsBuilder
        from rearec.data.readers.selection import find_roles

        with python_errors(ROLES):
            _check_columns(user=(user,), item=(item,), time=_listed(() if time is None else time), rating=(rating,))
            title_column = titles if isinstance(titles, str) else options.pop("title_column", None)
            _check_names(options, OF_FILES, f"from_frame({', '.join(ROLES.values())}, titles, split)")
            times = _listed(() if time is None else time)
            chosen = _options(
                options,
                user_column=user,
                item_column=item,
                timestamp_column=",".join(times) or None,
                rating_column=rating,
                split=split,
                title_column=title_column,
                titles=str(titles) if isinstance(titles, Path) else None,
            )
            column = title_column if isinstance(titles, str) else None
            used = (user, item, *(times or ("timestamp",)), rating or "rating", *condition_columns(chosen.where))
            table, notes = frame_table(frame, [*used, *([column] if column else [])], [user, item])
            plan = decide("table", SourceFiles([FRAME], None, (frozenset(),), notes, "frame"), chosen)
            builder = InteractionsBuilder(plan.files, plan.options)
            builder.add_table(table, find_roles(table, plan.options), column)
            read = builder.build()
            refuse_nothing(read, plan)
            title_of = read.reading.titles
            if isinstance(titles, Path):
                title_of = _titles_of_file(titles, plan.options)
            elif titles is not None and column is None:
                title_of = title_mapping(titles, item, title_column)
            return cls._built(Origin(plan, read, title_of))

    @classmethod
    def from_files(
        cls,
        format: str | Path | Sequence[str | Path],
        sources: str | Path | Sequence[str | Path] | None = None,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        rating: str | None = None,
        **options: Any,
    ) -> Dataset:
        """The dataset of files, as ``rearec prepare`` makes it, in memory.

        Args:
            format: one of ``rearec.data.FORMATS``. It may be left out, with the files in its place, if these end in
                .csv, .tsv, .tab, .parquet, .pq, .jsonl, .ndjson (all "table") or .inter ("recbole").
            sources: files, folders or patterns.
            user, item, time, rating: the columns, where they have no usual name.
            options: fields of `PrepareOptions`.

        Raises:
            UserError: a file, a value, an option or their combination is wrong; the message says which and where.
        """
        with python_errors(ROLES):
            if sources is None:
                sources = _paths(format)
                format = _guessed(sources)
            roles = {"user_column": user, "item_column": item, "timestamp_column": time, "rating_column": rating}
            _check_names(options, (), "from_files")
            chosen = _options(options, **{name: value for name, value in roles.items() if value is not None})
            plan = make_plan(str(format), _paths(sources), chosen)
            return cls._built(Origin(plan, *read_sources(plan, lambda message: None)))

    @classmethod
    def load(cls, path: str | Path) -> Dataset:
        """A dataset that was saved, or prepared on the command line; its arrays are memory-mapped, read only.

        Raises:
            UserError: ``path`` is no prepared dataset, is of another version, or is damaged.
        """
        return cls._of(load_dataset(path), None)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the dataset into the folder ``path``, where `load` and every command find it.

        Raises:
            UserError: ``path`` exists (and ``force`` is not given, or it holds no prepared dataset), or cannot be
                written.
        """
        save_dataset(self, path, force=force)

    def split(self, split: Split, **options: Any) -> Dataset:
        """The same interactions with another split; filters stay as they were unless ``options`` change them.

        A stored dataset holds neither times nor what was filtered out: it can be split by leave-one-out alone.

        Args:
            split: "leave-one-out", "timestamp" or "time-span"; "given" of files that are split already.
            options: ``valid_from``, ``test_from``, and filters such as ``core``, see `PrepareOptions`.

        Raises:
            UserError: the split needs what there is not, or leaves nothing.
        """
        with python_errors(ROLES):
            if self.origin is None:
                return self._of(split_stored(self, split, options), None)
            plan = split_again(self.origin, split, options)
            return self._built(replace(self.origin, plan=plan))

    @classmethod
    def _built(cls, origin: Origin) -> Dataset:
        return cls._of(build(origin.plan, origin.read, origin.titles), origin)

    @classmethod
    def _of(cls, dataset: SequenceDataset, origin: Origin | None) -> Dataset:
        made = cls(**{entry.name: getattr(dataset, entry.name) for entry in fields(SequenceDataset)}, origin=origin)
        if "fingerprint" in vars(dataset):
            vars(made)["fingerprint"] = dataset.fingerprint
        return made


def _options(given: Mapping[str, Any], **further: Any) -> PrepareOptions:
    return PrepareOptions(**plain_options({**given, **further}))


def _check_columns(**columns: Sequence[Any]) -> None:
    """UserError for what is no column's name, but for None in an optional place, and for a column in two places."""
    for role, names in columns.items():
        for name in names:
            if not isinstance(name, str) and (name is not None or role in ("user", "item")):
                raise UserError(f"{role}: got {name!r}, expected the name of a column, a text")
    if columns["user"] == columns["item"]:
        raise UserError(f"user and item: both are column {columns['user'][0]!r}")


def _check_names(options: Mapping[str, Any], barred: Sequence[str], call: str) -> None:
    """UserError where an option is unknown, or not for this call."""
    known = [entry.name for entry in fields(PrepareOptions)]
    for name in options:
        if name in ROLES and name in barred:
            raise UserError(f"{name}: called {ROLES[name]} here")
        if name in barred:
            raise UserError(f"{name}: an option of files, not of a frame")
        if name not in known:
            usable = ", ".join(each for each in known if each not in barred)
            raise UserError(f"{name}: no option of {call}; further ones are {usable}")


def _titles_of_file(path: Path, options: PrepareOptions) -> dict[str, str]:
    from rearec.data.preparation.titles import read_titles

    return read_titles(path, options.item_column, options.title_column or "title", options.title_layout)


def _listed(values: Any) -> list[Any]:
    """One or several as a list."""
    return list(values) if isinstance(values, list | tuple) else [values]


def _paths(sources: object) -> list[str | Path]:
    several = _listed(sources)
    for each in several:
        if not isinstance(each, str | Path):
            raise UserError(f"from_files: got {each!r}, expected the path of a file or several in a list")
    return several


def _guessed(sources: Sequence[str | Path]) -> str:
    """The format of files by their endings.

    Raises:
        UserError: there are none, or they do not tell.
    """
    endings = {ending(Path(source)) for source in sources}
    if endings and endings <= set(TABLES):
        return "table"
    if endings == {".inter"}:
        return "recbole"
    first = sources[0] if sources else ""
    if str(first) in SOURCE_FORMATS:
        raise UserError(f"from_files({str(first)!r}): no source file given")
    raise UserError(f"{first}: its ending does not tell the format: from_files(format, sources), format is one of "
                    f"{', '.join(sorted(SOURCE_FORMATS))}")  # fmt: skip
