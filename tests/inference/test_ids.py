"""What counts as ids and histories: lists, arrays, columns; integers are ids, floats are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import polars as pl
import pyarrow
import pytest
import torch

from rearec.inference.ids import read_histories, read_ids

EXPECTED = [["3", "4"], ["5"]]


@pytest.mark.parametrize(
    "histories",
    [
        [[3, 4], [5]],
        [["3", "4"], ["5"]],
        ((np.int64(3), "4"), (5,)),
        [np.array([3, 4]), np.array(["5"])],
        [torch.tensor([3, 4]), torch.tensor([5])],
        pl.Series([[3, 4], [5]]),
        [pl.Series([3, 4]), pl.Series(["5"])],
        (history for history in ([3, 4], [5])),
    ],
    ids=["integers", "texts", "mixed", "arrays", "tensors", "polars", "series", "generator"],
)
def test_histories_of_any_form(histories: Any) -> None:
    assert read_histories(histories) == EXPECTED


def test_columns_of_pandas_and_pyarrow() -> None:
    assert read_histories(pandas.Series([[3, 4], [5]])) == EXPECTED
    assert (
        read_histories(pandas.DataFrame({"user": [1, 1, 2], "item": [3, 4, 5]}).groupby("user")["item"].agg(list))
        == EXPECTED
    )
    assert read_histories(pyarrow.chunked_array([[[3, 4]], [[5]]])) == EXPECTED
    assert read_ids(pandas.Series([7, 8]), "items") == ["7", "8"]


@pytest.mark.parametrize("value", [3.0, np.float32(3), True, np.True_, None, ["3"], b"3"])
def test_what_is_no_id_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"histories\[1\]"):
        read_histories([["3"], ["3", value]])
    with pytest.raises(TypeError, match="items: an id is text or a whole number, got"):
        read_ids([value], "items")


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ("item", "histories: expected a sequence of histories"),
        (["item"], r"histories\[0\]: expected a sequence of item ids"),
        ([{"3", "4"}], r"histories\[0\]: .* got set"),
        ({"user": [3]}, "histories: .* got dict"),
        (pl.DataFrame({"history": [[3, 4]]}), "histories: got a table"),
        ([None], r"histories\[0\]: .* got NoneType"),
        (3, "histories: .* got int"),
    ],
)
def test_what_is_no_history_is_refused(histories: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        read_histories(histories)
