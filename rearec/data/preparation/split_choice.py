"""Which split is meant, and why: from the options and the names of the files, before anything is read."""

from __future__ import annotations

from dataclasses import replace

from rearec.data.readers.options import PrepareOptions, Split
from rearec.data.readers.source_files import SourceFiles, describe_parts, parts_by_name
from rearec.data.words import SPLIT_NAMES
from rearec.errors import UserError

__all__ = ["choose_split", "is_split_already", "thresholds"]


def is_split_already(files: SourceFiles, histories: bool, carve_valid: bool) -> bool:
    """Whether files are, unasked, the parts of a given split: their names say so, or three of them hold histories.

    Raises:
        UserError: the names speak of some parts of a split and not of others.
    """
    if parts_by_name(files) is not None or (histories and len(files.paths) == 3):
        return True
    named = frozenset().union(*files.named)
    if carve_valid or len(named) < 2 or any(len(parts) > 1 for parts in files.named):
        return carve_valid
    instead = "or --split leave-one-out to take all files as one table"
    if any(not parts for parts in files.named):
        without = files.paths[[not parts for parts in files.named].index(True)]
        raise UserError(
            f"{without}: is it train, valid or test? The names of others say so; name it likewise {instead}"
        )
    missing = [SPLIT_NAMES[part] for part in range(3) if part not in named]
    carve = ", --carve-valid to take each user's last train row," if missing == ["valid"] else ""
    there = " and ".join(SPLIT_NAMES[part] for part in sorted(named))
    raise UserError(f"{files.paths[0]}: files for {there}, none for {missing[0]}: give it{carve} {instead}")


def choose_split(
    split: Split | None, asked: bool, files: SourceFiles, options: PrepareOptions
) -> tuple[Split, SourceFiles, str]:
    """The split, the files with the part that each of them is, and why, in words for the user.

    Args:
        split: that of the options or the preset; None: decided here.
        asked: the options name it.

    Raises:
        UserError: the files are not those of a given split.
    """
    if options.carve_valid and split not in (None, "given"):
        raise UserError(f"--carve-valid is for files split into train and test already, not for the split {split!r}")
    if split == "given":
        files, why = _given(files, options.carve_valid)
        return split, files, f"given ({describe_parts(files)}), {why}"
    if split is not None:
        why = "as asked (--split)" if asked else f"that of the preset {options.preset!r}"
        return split, files, f"{split}, {why}"
    count = len(files.paths)
    of_files = (
        f"one {files.kind}" if count == 1 else f"{count} files taken as one table: no names of train, valid and test"
    )
    meaning = "each user's last item is for test, the one before for validation"
    return "leave-one-out", files, f"leave-one-out ({meaning}), the default for {of_files}"


def _given(files: SourceFiles, carve_valid: bool) -> tuple[SourceFiles, str]:
    wanted = "train and test" if carve_valid else "train, valid and test"
    parts = {0, 2} if carve_valid else {0, 1, 2}
    single = [next(iter(named)) for named in files.named if len(named) == 1]
    carved = "; validation is each user's last train row (--carve-valid)" if carve_valid else ""
    if len(single) == len(files.paths) and set(single) == parts:
        return replace(files, parts=tuple(single)), f"by the files' names{carved}"
    if carve_valid and 1 in single:
        raise UserError(f"{files.paths[single.index(1)]}: a file for valid, beside --carve-valid; give one of them")
    if len(files.paths) != len(parts):
        raise UserError(
            f"the split 'given' needs {len(parts)} files ({wanted}) or names that say so, got {len(files.paths)}"
        )
    for path, named, part in zip(files.paths, files.named, sorted(parts), strict=True):
        if named and part not in named:
            raise UserError(f"{path}: stands in the place of the {SPLIT_NAMES[part]} file; the order is {wanted}")
    return replace(files, parts=tuple(sorted(parts))), f"by the order of the files{carved}"


def thresholds(split: str, valid_from: str | None, test_from: str | None) -> tuple[str, str] | None:
    """The thresholds of a split by time, None for the others.

    Raises:
        UserError: they are missing, or given in vain.
    """
    if split not in ("timestamp", "time-span"):
        if valid_from is not None or test_from is not None:
            raise UserError(
                f"--valid-from and --test-from are for the splits 'timestamp' and 'time-span', not {split!r}"
            )
        return None
    if valid_from is None or test_from is None:
        raise UserError(f"the split {split!r} needs --valid-from and --test-from")
    return str(valid_from), str(test_from)
