"""Block sizes of the kernels by architecture, dtype and width: the preferred ones first, what fits anywhere last.

What decides is registers (an accumulator of ROWS x COLUMNS float32 numbers stays in them) and shared memory; every
first entry is compiled ahead of time by the tests for compute capability 8.0, 9.0 and 10.0 and must not spill.
"""

from __future__ import annotations

import functools

import torch

from rearec_kernels.triton.launch import Config, block_size, config
from rearec_kernels.triton.tiles import INTERPRETED

_WIDEST = 256  # columns that a kernel accumulates at a time


@functools.cache
def softmax_statistics(arch: int, dtype: torch.dtype, width: int, mean: bool) -> tuple[Config, ...]:
    columns = block_size(width, 16, _WIDEST)
    if INTERPRETED:
        return (config(4, 1, ROWS=128, ITEMS=128, DEPTH=columns, COLUMNS=columns),)
    if dtype == torch.float32:
        return _float32(columns, "ROWS", "ITEMS")
    small = config(8, 2, ROWS=64, ITEMS=32, DEPTH=min(columns, 64), COLUMNS=min(columns, 64))
    if width > _WIDEST:
        return config(8, 2, ROWS=64, ITEMS=64, DEPTH=64, COLUMNS=columns), small
    sizes = {"DEPTH": columns, "COLUMNS": columns}
    tall, middle = config(8, 3, ROWS=128, ITEMS=32, **sizes), config(8, 2, ROWS=64, ITEMS=64, **sizes)
    if arch // 10 == 9:
        return tall, *(config(8, stages, ROWS=128, ITEMS=64, **sizes) for stages in (2, 3)), middle, small
    return middle, tall, small


@functools.cache
def softmax_table_gradient(arch: int, dtype: torch.dtype, width: int, batches: int) -> tuple[Config, ...]:
    columns = block_size(width, 16, _WIDEST)
    if INTERPRETED:
        return (config(4, 1, ROWS=128, ITEMS=128, DEPTH=columns, COLUMNS=columns),)
    if dtype == torch.float32:
        return _float32(columns, "ITEMS", "ROWS")
    small = config(8, 2, ROWS=32, ITEMS=64, DEPTH=min(columns, 64), COLUMNS=min(columns, 64))
    if width > _WIDEST:
        return config(8, 2, ROWS=32, ITEMS=64, DEPTH=64, COLUMNS=columns), small
    items = 128 if batches == 1 else 64  # the tables of the contrastive loss are small
    sizes = {"DEPTH": columns, "COLUMNS": columns}
    others = (config(8, 2, ROWS=64, ITEMS=64, **sizes), config(8, 2, ROWS=64, ITEMS=128, **sizes))
    return config(8, 2, ROWS=32, ITEMS=items, **sizes), *others, small


def _float32(columns: int, resident: str, streamed: str) -> tuple[Config, ...]:
    """Products without tensor cores keep their operands in registers, and the gradients' are summed beside the sum that
    they are added to: they have to be shallow."""
    return (
        config(8, 2, **{resident: 64, streamed: 16}, DEPTH=16, COLUMNS=columns),
        config(8, 2, **{resident: 32, streamed: 32}, DEPTH=16, COLUMNS=columns),
        config(8, 2, **{resident: 64, streamed: 32}, DEPTH=16, COLUMNS=min(columns, 64)),
    )


@functools.cache
def ensemble_statistics(arch: int, dtype: torch.dtype, width: int, states: int) -> tuple[Config, ...]:
    rows, items = 32 if arch // 10 == 9 or dtype == torch.float32 else 16, 32 if dtype == torch.float32 else 64
    return _ensemble(dtype, width, states, rows, (64,), ITEMS=items)


@functools.cache
def ensemble_rows_gradient(arch: int, dtype: torch.dtype, width: int, states: int) -> tuple[Config, ...]:
    items = 32 if dtype == torch.float32 or arch // 10 == 9 else 64
    columns = 128 if dtype == torch.float32 else _WIDEST
    return _ensemble(dtype, width, states, 16, (32,), ITEMS=items, COLUMNS=block_size(width, 16, columns))


@functools.cache
def ensemble_table_gradient(arch: int, dtype: torch.dtype, width: int, states: int) -> tuple[Config, ...]:
    rows, items, columns = 32, 64, _WIDEST
    if dtype == torch.float32:
        rows, items, columns = 16, 32, 128
    elif arch >= 90:
        rows, columns = 16 if arch // 10 == 9 else 32, 128
    return _ensemble(dtype, width, states, rows, (32, 64), ITEMS=items, COLUMNS=block_size(width, 16, columns))


def _ensemble(
    dtype: torch.dtype, width: int, states: int, rows: int, other_rows: tuple[int, ...], **sizes: int
) -> tuple[Config, ...]:
    """Up to three states as given, more with fewer rows: the logits of all states are in registers."""
    depth = block_size(width, 16, _WIDEST)
    if INTERPRETED:
        # NumPy sums over items one after the other where a GPU adds pairs: few of them lose no precision that way.
        return (config(4, 1, **(sizes | {"ITEMS": 32}), ROWS=128, DEPTH=depth),)
    if dtype == torch.float32:
        depth = 16
    elif width > _WIDEST:
        depth = 64
    smallest = {name: min(size, 64 if name == "COLUMNS" else 32) for name, size in sizes.items()}
    tensor_cores = dtype != torch.float32 and states <= 3
    others = (config(8, 2, **(sizes | {"ITEMS": 64}), ROWS=count, DEPTH=depth) for count in other_rows if tensor_cores)
    return (
        config(8, 2, **sizes, ROWS=rows if states <= 3 else 16, DEPTH=depth),
        *others,
        config(8, 1, **smallest, ROWS=16, DEPTH=min(depth, 64)),
    )


@functools.cache
def catalog_topk(arch: int, dtype: torch.dtype, width: int, places: int) -> tuple[Config, ...]:
    """The more places a row's list has, in registers too, the fewer rows."""
    if INTERPRETED:
        return (config(4, 1, ROWS=max(16, min(256, 2**13 // places)), ITEMS=512, DEPTH=block_size(width, 16, _WIDEST)),)
    if arch // 10 == 10 and dtype != torch.float32:
        # Triton 3.6 fails on products of 64 rows here, whose results lie in tensor memory; those of 32 do not.
        depth = block_size(width, 16, _WIDEST if width <= _WIDEST else 64)
        sizes = {"ITEMS": 64, "DEPTH": depth}
        return config(4, 2, ROWS=max(16, min(32, 4096 // places)), **sizes), config(4, 1, ROWS=16, ITEMS=32, DEPTH=32)
    most = 64 if dtype == torch.float32 else 128
    return _scan(dtype, width, max(16, min(most, 4096 // places)), 32 if dtype == torch.float32 else 64)


@functools.cache
def merge_best(candidates: int) -> Config:
    return config(4, 1, ROWS=min(256, max(1, (2**16 if INTERPRETED else 2048) // candidates)))


@functools.cache
def catalog_rank(arch: int, dtype: torch.dtype, width: int) -> tuple[Config, ...]:
    if INTERPRETED:
        return (config(4, 1, ROWS=128, ITEMS=512, DEPTH=block_size(width, 16, _WIDEST)),)
    return _scan(dtype, width, 128, 64)


def _scan(dtype: torch.dtype, width: int, rows: int, items: int) -> tuple[Config, ...]:
    depth = 16 if dtype == torch.float32 else block_size(width, 16, _WIDEST if width <= _WIDEST else 64)
    return (
        config(8, 2, ROWS=rows, ITEMS=items, DEPTH=depth),
        config(4, 2, ROWS=max(16, rows // 2), ITEMS=items, DEPTH=depth),
        config(8, 2, ROWS=rows, ITEMS=2 * items, DEPTH=depth),
        config(4, 1, ROWS=16, ITEMS=32, DEPTH=min(depth, 32)),
    )
