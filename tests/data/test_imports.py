"""Importing rearec.data is cheap: the command line lists its choices without loading torch or polars."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rearec.data


def test_importing_loads_neither_torch_nor_polars_nor_numpy() -> None:
    script = (
        "import sys, rearec.data, rearec.errors; from rearec.data import FORMATS, SPLITS; "
        "sys.exit(' '.join({'torch', 'polars', 'numpy'} & set(sys.modules)) or None)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr == ""


def test_opening_a_dataset_loads_no_torch_and_no_polars() -> None:
    script = (
        "import sys; from rearec.data import load_dataset; "
        "sys.exit(' '.join({'torch', 'polars'} & set(sys.modules)) or None)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr == ""


def test_a_generated_dataset_needs_no_polars() -> None:
    script = (
        "import sys; from rearec.data.synthetic import Planted, generate; "
        "generate(0, planted=Planted(users=20, themes=2, items_per_theme=3)); "
        "sys.exit(' '.join({'torch', 'polars'} & set(sys.modules)) or None)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr == ""


@pytest.mark.parametrize("name", rearec.data.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(rearec.data, name) is not None
    assert name in dir(rearec.data)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="attribute nothing"):
        rearec.data.nothing  # noqa: B018
