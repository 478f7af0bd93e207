"""The one exception that means: the input was wrong, not the program."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(Exception):
    """An error the user caused and can mend.

    Its text is one clear line: what was wrong, where (file and row or column) and what is expected. The command line
    prints it as ``error: ...`` on stderr and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
