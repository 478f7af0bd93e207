"""``python -m rearec`` is the same as ``rearec``."""

from __future__ import annotations

from rearec.cli.app import main

main()
