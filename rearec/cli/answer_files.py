"""The files of ``rearec recommend``: histories, ids, and answers as json lines, csv or parquet."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rearec.data.tables.files import read_lines
from rearec.data.tables.json_text import parse_json
from rearec.errors import UserError
from rearec.files import check_free, open_aside

if TYPE_CHECKING:
    from rearec.inference import Recommendation

__all__ = ["answer_writer", "as_record", "check_output", "is_in_parts", "read_id_file", "read_requests"]

Write = Callable[[Sequence[dict[str, Any]], Sequence["Recommendation"]], None]


def check_output(output: Path, source: Path | None, force: bool) -> None:
    """UserError where the answers may not or cannot be written, before anything is computed."""
    if not output.parent.is_dir():
        raise UserError(f"{output}: cannot be written: there is no folder {output.parent}")
    if output.is_dir():
        raise UserError(f"{output}: is a folder; --output is a file")
    if source is not None and output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"{output}: --output is the file of --input; choose another one")
    check_free(output, replace=force)


def is_in_parts(source: Path) -> bool:
    """Whether an input is answered part by part: a folder, a pattern, or a parquet file."""
    if source.is_file() or source.suffix.lower() in (".parquet", ".pq"):
        return source.suffix.lower() in (".parquet", ".pq")
    return source.is_dir() or glob.has_magic(str(source))


def read_id_file(path: Path) -> list[str]:
    """One id per line, empty lines left out; UserError where there is none."""
    ids = [line.rstrip("\r\n") for line in read_lines(path)]
    ids = [line for line in ids if line.strip()]
    if not ids:
        raise UserError(f"{path}: holds no id; expected one per line")
    return ids


def read_requests(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of histories, as objects with "history"; UserError names the line that is wrong."""
    requests = []
    for row, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        value = parse_json(path, line, row)
        request = {"history": value} if isinstance(value, list) else value
        history = request.get("history") if isinstance(request, dict) else None
        if not isinstance(history, list) or not all(map(_is_id, history)):
            raise UserError(f'{path}: row {row}: expected a list of ids (texts or integers), or {{"history": [...]}}')
        try:
            _line(request).encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{path}: row {row}: holds half of a surrogate pair, which is no text") from None
        except ValueError:
            raise UserError(f"{path}: row {row}: holds NaN or infinity, which json does not have") from None
        requests.append(request)
    if not requests:
        raise UserError(f"{path}: holds no history")
    return requests


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def as_record(answer: Recommendation, titles: bool) -> dict[str, Any]:
    """An answer as json holds it; its titles where there are any and they are wanted."""
    record = asdict(answer)
    if not titles or record["titles"] is None:
        del record["titles"]
    return record


@contextmanager
def answer_writer(output: Path, *, titles: bool, users: bool) -> Iterator[Write]:
    """Writes answers with what each is the answer to, chunk by chunk, into a file that is there when all are.

    A file ending in .csv or .parquet has a row for each recommended item: user, or else row (of the history, from 0),
    then rank, item, title, score and source. Any other file has a json object for each answer.

    titles: whether there are any and they are wanted. users: whether each request has a "user".
    """
    ending = output.suffix.lower()
    with open_aside(output, "wb" if ending == ".parquet" else "w") as file:
        if ending not in (".csv", ".parquet"):

            def write_lines(requests: Sequence[dict[str, Any]], answers: Sequence[Recommendation]) -> None:
                for request, answer in zip(requests, answers, strict=True):
                    file.write(_line({**request, **as_record(answer, titles)}))

            yield write_lines
            return
        import polars as pl

        from rearec.inference.answers import as_frame

        frames: list[pl.DataFrame] = []
        done = 0

        def write_rows(requests: Sequence[dict[str, Any]], answers: Sequence[Recommendation]) -> None:
            nonlocal done
            names = [str(request["user"]) for request in requests] if users else None
            frame = as_frame(answers, users=names).with_columns(pl.col("row") + done)
            frame = frame.drop([] if titles else "title", "row" if users else [])
            if ending == ".csv":
                file.write(frame.write_csv(include_header=done == 0))
            else:
                frames.append(frame)
            done += len(answers)

        yield write_rows
        if ending == ".parquet":
            pl.concat(frames).write_parquet(file)


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
