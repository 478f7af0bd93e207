"""The floors and the metrics, which `rearec prepare` ends with, need no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rearec.evaluation


def test_floors_metrics_and_the_choice_of_seen_items_load_no_torch() -> None:
    script = (
        "import sys; from rearec.evaluation import seen_items; "
        "from rearec.evaluation.measured import floor_metrics; from rearec.evaluation.metrics import rank_metrics; "
        "sys.exit(' '.join({'torch', 'polars', 'lightning'} & set(sys.modules)) or None)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr == ""


@pytest.mark.parametrize("name", rearec.evaluation.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(rearec.evaluation, name) is not None
    assert name in dir(rearec.evaluation)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="attribute nothing"):
        rearec.evaluation.nothing  # noqa: B018
