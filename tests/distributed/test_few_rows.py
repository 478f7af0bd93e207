"""The gradient of a table by the rows that a step touches is that of the table all-reduced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from groups import log_of, run_group

TOUCHED = {
    "few": [[3, 499, 3], [7, 3], [0]],
    "none in one process": [[5, 6], [], [6]],
    "many": [list(range(480)), [4], [5]],
}


@pytest.mark.parametrize("size", [2, 3])
def test_the_sum_is_that_of_the_whole_table(size: int, tmp_path: Path) -> None:
    cases = [("table_gradient", {"touched": touched[:size]}) for touched in TOUCHED.values()]
    answers, codes = run_group(size, cases, tmp_path)
    assert codes == [0] * size, log_of(tmp_path, 0)
    for (name, touched), of_ranks in zip(TOUCHED.items(), answers, strict=True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Embedding(500, 8), torch.nn.Linear(8, 3)).double()
        for ids in touched[:size]:
            (model(torch.tensor(ids, dtype=torch.int64)).square().sum() / size).backward()
        for answer in of_ranks:
            assert answer is not None and answer.error is None, answer
            found = answer.value
            torch.testing.assert_close(found["table"], model[0].weight.grad, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found["matrix"], model[1].weight.grad, rtol=1e-12, atol=1e-12)
            assert (found["most"] >= 500 * 8) == (name == "many"), name
