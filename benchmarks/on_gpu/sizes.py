"""How large the cases are: on a GPU, and in a dry run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    forward_rows: tuple[int, ...]
    shared: tuple[int, int]  # rows, prefixes
    training_rows: tuple[int, ...]
    rollout: tuple[tuple[int, tuple[float, float]], ...]  # rows, the target against naive
    slots: int
    heads: int
    width: int
    steps: int
    items: int
    loss_rows: int
    catalogs: tuple[int, int]  # items; the smaller one in every precision
    contrast_steps: int
    loss_width: int
    topk: tuple[int, int, int]  # rows, items, k
    rank: tuple[int, int]  # rows, items
    copied_bytes: int
    batches: int
    replayed_calls: int  # at most, or one per input set
    least_runs: int


FULL = Sizes(
    forward_rows=(2048, 8192, 32768),
    shared=(2048, 256),
    training_rows=(2048, 512),
    rollout=((1, (3, 5)), (256, (3, 4)), (2048, (1.5, 3))),
    slots=50,
    heads=2,
    width=128,
    steps=3,
    items=10_000,
    loss_rows=2048,
    catalogs=(22_933, 87_969),
    contrast_steps=2,
    loss_width=256,
    topk=(256, 1_000_000, 20),
    rank=(1024, 87_969),
    copied_bytes=4 << 30,
    batches=4,
    replayed_calls=100,
    least_runs=5,
)
DRY = Sizes(
    forward_rows=(3,),
    shared=(6, 2),
    training_rows=(4,),
    rollout=((1, (3, 5)), (3, (1.5, 3))),
    slots=7,
    heads=2,
    width=8,
    steps=3,
    items=20,
    loss_rows=6,
    catalogs=(23, 41),
    contrast_steps=2,
    loss_width=16,
    topk=(5, 67, 4),
    rank=(7, 41),
    copied_bytes=1 << 16,
    batches=2,
    replayed_calls=4,
    least_runs=2,
)
