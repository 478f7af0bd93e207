"""The one exception that means: the input was wrong, not the program."""

from __future__ import annotations

from rearec.visible import visible

__all__ = ["UserError", "in_one_line"]


class UserError(Exception):
    """An error the user caused and can mend.

    Its text is one clear line: what was wrong, where (file and row or column) and what is expected. The command line
    prints it as ``error: ...`` on stderr and exits with code 2. Line breaks and other control characters, as a path may
    hold them, become their escapes (`rearec.visible.visible`); use `in_one_line` for the texts of other errors.

    Examples:
        >>> import rearec
        >>> try:
        ...     rearec.load_dataset("nowhere")
        ... except rearec.UserError as error:
        ...     print(error)
        nowhere: no such directory; expected a prepared dataset (see 'rearec prepare')
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


def in_one_line(error: Exception) -> str:
    """What a library's error says, its paragraphs run together."""
    return " ".join(str(error).split())
