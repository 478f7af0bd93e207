"""What contenders are measured by that compute something else: copies, products."""

from __future__ import annotations

from functools import partial

import torch

from measure.agreement import Calls
from measure.contest import Contest

COPYING = "copying as many bytes"


def copies(contest: Contest, size: int) -> dict[str, Calls]:
    """Copies within the device's memory that read and write `size` bytes together, through sets of buffers that no
    cache holds."""

    def buffers(seed: int) -> torch.Tensor:
        return torch.randint(255, (2, max(1, size // 2)), dtype=torch.uint8, device=contest.device)

    sets = contest.sets(buffers, lambda pair: pair.nbytes)
    return {COPYING: [partial(target.copy_, source) for target, source in sets]}
