"""Messages that name options of the command line, with the names that they have in Python."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rearec.data.readers.options import PrepareOptions
from rearec.errors import UserError
from rearec.fields import in_python

__all__ = ["python_errors"]

ORDERS = re.compile(r"--timestamp-column (\S+) orders")


@contextmanager
def python_errors(names: Mapping[str, str]) -> Iterator[None]:
    """Errors of the block name options of `PrepareOptions` as Python does; names: what fields are called instead."""
    try:
        yield
    except UserError as error:
        said = ORDERS.sub(rf"{names.get('timestamp_column', 'timestamp_column')}='\1' orders", str(error))
        message = in_python(said, PrepareOptions, names=names, switches={"--force": "force=True"})
        if message == str(error):
            raise
        raise UserError(message) from error
