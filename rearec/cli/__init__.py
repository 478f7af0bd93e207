"""The command line, ``rearec``: one module per group of commands, nothing heavy imported before a command runs."""

from __future__ import annotations

from rearec.cli.app import main

__all__ = ["main"]
