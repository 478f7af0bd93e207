"""The only way to rich: what is printed is shown as it is, none of it is taken for markup."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from rearec.errors import visible

__all__ = ["UNLIMITED", "Terminal", "progress", "stderr_terminal", "stdout_terminal"]

# Of what is read in paragraphs, where the output is no terminal; tables are as wide there as what they hold.
PARAGRAPH = 120
UNLIMITED = 100_000


class Terminal(Console):
    """A console without markup, emoji codes and highlighting.

    Strings, those in the cells, headings and titles of tables too, show control characters as escapes (`visible`). A
    printed string is one line, which is neither wrapped nor cut.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Everything that is a string comes through here."""
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False, "highlight": False})

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich prints, but strings as lines of any length."""
        if all(isinstance(each, str) for each in objects):
            options = {"soft_wrap": True, **options}
        super().print(*objects, **options)

    def paragraphs(self, text: Any) -> None:
        """Print what is to be wrapped into lines for reading."""
        self.print(text, soft_wrap=False, width=min(self.width, PARAGRAPH) if not self.is_terminal else None)


def stdout_terminal() -> Terminal:
    """Standard output."""
    return Terminal(width=None if sys.stdout.isatty() else UNLIMITED)


def stderr_terminal() -> Terminal:
    """Standard error."""
    return Terminal(stderr=True, width=None if sys.stderr.isatty() else UNLIMITED)


class _Description(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(visible(task.description))


def progress(*columns: ProgressColumn, transient: bool = True) -> Progress:
    """Progress bars on standard error: the description of a task, then ``columns``, by default rich's own."""
    shown = columns or Progress.get_default_columns()[1:]
    return Progress(_Description(), *shown, console=stderr_terminal(), transient=transient)
