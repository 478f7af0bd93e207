"""Rows of results as data frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rearec.errors import UserError

__all__ = ["frame"]


def frame(rows: Sequence[Mapping[str, Any]], library: str) -> Any:
    """Rows as a data frame of polars or pandas; UserError where that is not installed, or is another one."""
    if library == "polars":
        import polars

        return polars.DataFrame(list(rows), infer_schema_length=None)
    if library != "pandas":
        raise UserError(f"library: got {library!r}, expected polars or pandas")
    try:
        import pandas
    except ImportError:
        raise UserError("pandas is not installed: pip install pandas") from None
    return pandas.DataFrame(list(rows))
