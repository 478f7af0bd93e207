"""What a notebook shows of a result: a small table in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rearec.errors import visible

__all__ = ["html_table"]


def html_table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in HTML; caption, headings and cells are plain text, numbers stand on the right.

    >>> html_table("two items", ["item", "score"], [["tea & rice", 0.5]])[:30]
    '<table><caption style="text-al'
    """
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    style = "text-align:left;caption-side:top"
    return (
        f'<table><caption style="{style}">{_text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _text(value: object) -> str:
    return escape(visible(str(value)))


def _cell(value: object) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, float):
        return f'<td style="text-align:right">{value:.4f}</td>'
    align = "right" if isinstance(value, int) else "left"
    return f'<td style="text-align:{align}">{_text(value)}</td>'
