"""Preparations that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rearec.data import prepare
from rearec.errors import UserError

__all__ = ["GOOD", "refused"]

# A table that nothing is wrong with.
GOOD = "user_id,item_id,rating,timestamp\nu,a,5,1\nu,b,4,2\nu,c,3,3\nu,d,5,4\n"


def refused(format: str, sources: list[Path], **options: Any) -> str:
    """The message of the error that preparing raises."""
    out = sources[0].parent / "out" if sources else Path("out")
    with pytest.raises(UserError) as caught:
        prepare(format, sources, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not out.exists()
    return message
