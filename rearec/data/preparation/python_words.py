"""Messages that name options of the command line, with the names that they have in Python."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rearec.data.readers.options import PrepareOptions
from rearec.errors import UserError
from rearec.fields import settings

__all__ = ["in_python", "python_errors"]

ORDERS = re.compile(r"--timestamp-column (\S+) orders")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def in_python(message: str, names: Mapping[str, str]) -> str:
    """The message with ``core`` for ``--core``, ``drop_incomplete=True`` for ``--drop-incomplete``.

    Args:
        names: what fields of `PrepareOptions` are called instead.
    """
    words = {}
    for name, said in settings(PrepareOptions).items():
        called = names.get(name, name)
        if not said.is_a(bool):
            words[said.flag] = called
            continue
        on, *off = (said.flags or f"--{name.replace('_', '-')}").strip().split("/")
        words |= {on.strip(): f"{called}=True", **{flag.strip(): f"{called}=False" for flag in off}}
    message = ORDERS.sub(rf"{names.get('timestamp_column', 'timestamp_column')}='\1' orders", message)
    return FLAG.sub(lambda found: words.get(found[0], found[0]), message)


@contextmanager
def python_errors(names: Mapping[str, str]) -> Iterator[None]:
    """Errors of the block name options as Python does (`in_python`)."""
    try:
        yield
    except UserError as error:
        message = in_python(str(error), names)
        if message == str(error):
            raise
        raise UserError(message) from error
