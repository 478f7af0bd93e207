"""What is to be done, decided from the options and the files' names before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rearec.data.preparation.presets import choose_options
from rearec.data.preparation.split_choice import choose_split, is_split_already, thresholds
from rearec.data.preparation.titles import split_off_item_file
from rearec.data.readers.formats import SOURCE_FORMATS, SourceFormat, check_format
from rearec.data.readers.options import PrepareOptions, Split
from rearec.data.readers.source_files import SourceFiles, find_files
from rearec.errors import UserError
from rearec.fields import settings

__all__ = ["Plan", "decide", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """How one dataset is prepared.

    Attributes:
        format_name, format: of the source.
        files: the interactions.
        options: with what the preset says, and in ``titles`` a file of items that was among the sources.
        split: how rows become train, valid and test; why: in words for the user.
        limits: the two thresholds of a split by time.
    """

    format_name: str
    format: SourceFormat
    files: SourceFiles
    options: PrepareOptions
    split: Split
    why: str
    limits: tuple[str, str] | None


def make_plan(format: str, sources: Sequence[str | Path], options: PrepareOptions) -> Plan:
    """What the options mean for these sources.

    Raises:
        UserError: there is no such format, no such file, or options contradict each other, the format or the files.
    """
    check_format(format)
    source = SOURCE_FORMATS[format]
    _check_format(format, options)
    if not sources:
        raise UserError("no source file given")
    files = find_files(sources, format, options.separator is not None, keep_order=options.split == "given")
    if source.item_columns is not None:
        files, options = _take_item_file(files, source.item_columns[0], options)
    if options.title_column is not None and options.titles is None and format != "table":
        raise UserError(f"--title-column {options.title_column}: there is no file of titles: give --titles FILE too")
    return decide(format, files, options)


def decide(format: str, files: SourceFiles, options: PrepareOptions) -> Plan:
    """What the options mean for files that are found, or for a frame in memory.

    Raises:
        UserError: options contradict each other, the format or the files.
    """
    source = SOURCE_FORMATS[format]
    asked = options.split is not None
    given = False
    if options.split is None and source.preset is None:
        histories = len(files.paths) == 3 and source.hold_histories(files, options)
        given = is_split_already(files, histories, options.carve_valid)
    options, split = choose_options(format, options, given)
    if options.expect and options.preset is None:
        raise UserError("--expect compares with the published counts of a preset's dataset: give --preset too")
    if options.missing_titles == "drop-null" and options.titles is None:
        raise UserError(
            f"the preset {options.preset!r} drops items without a title: give the meta file too, "
            "or --missing-titles keep to do without"
        )
    split, files, why = choose_split(split, asked, files, options)
    if source.preset is not None and split == "given":
        raise UserError(f"the split 'given' is not for the format {format!r}, whose reviews are not split yet")
    limits = thresholds(split, options.valid_from, options.test_from)
    return Plan(format, source, files, options, split, why, limits)


def _check_format(format: str, options: PrepareOptions) -> None:
    """UserError where an option is not for the format."""
    for name, said in settings(PrepareOptions).items():
        formats = [known for known, source in SOURCE_FORMATS.items() if name in source.options]
        if formats and format not in formats and getattr(options, name) != said.default:
            known = ", ".join(map(repr, formats))
            raise UserError(f"{said.flag} is for the formats {known}; {format!r} has its own way")


def _take_item_file(
    files: SourceFiles, item_column: str, options: PrepareOptions
) -> tuple[SourceFiles, PrepareOptions]:
    """The files of interactions, and the options with the file of items among the sources as their ``titles``."""
    files, item_file = split_off_item_file(files, item_column)
    if item_file is not None and options.titles is not None:
        raise UserError(f"{item_file}: a second file of items beside --titles {options.titles}")
    if not files.paths:
        raise UserError(f"{item_file}: holds items, not interactions; give the reviews as well")
    return files, options if item_file is None else replace(options, titles=str(item_file))
