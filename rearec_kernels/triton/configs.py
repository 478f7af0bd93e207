"""Block sizes of the kernels by architecture, dtype and width: the preferred ones first, what fits anywhere last.

What decides is registers (an accumulator of ROWS x COLUMNS float32 numbers stays in them) and shared memory; every
first entry is compiled ahead of time by the tests for compute capability 8.0, 9.0 and 10.0 and must not spill.
"""

from __future__ import annotations

import functools

import torch

from rearec_kernels.triton.launch import Config, block_size, config
from rearec_kernels.triton.tile_kernels import INTERPRETED

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
def ensemble(arch: int, dtype: torch.dtype, width: int, states: int) -> tuple[Config, ...]:
    """Of both passes over the logits, those of all states in registers; the rows of a tile, where that is little, in
    shared memory."""
    columns = block_size(width, 16, _WIDEST)
    if INTERPRETED:
        # NumPy sums over items one after the other where a GPU adds pairs: few of them lose no precision that way.
        return (config(4, 1, ROWS=128, ITEMS=32, DEPTH=columns),)
    if dtype == torch.float32:
        return tuple(config(8, 2, ROWS=rows, ITEMS=32, DEPTH=16) for rows in (32, 64, 16))
    items, depth = 64 if states <= 3 else 32, min(columns, 64)
    streamed = config(8, 2, ROWS=64, ITEMS=items, DEPTH=depth), config(8, 1, ROWS=16, ITEMS=32, DEPTH=depth)
    if width > _WIDEST or states * columns > 3 * _WIDEST:
        return streamed
    sizes = {"ROWS": 64 if arch >= 90 else 32, "DEPTH": columns}  # older ones hold them in registers
    first = config(8, 2, **sizes, ITEMS=items)
    if arch // 10 != 9:
        return first, *streamed
    # Two blocks of four warps fill a multiprocessor like one of eight, and do not wait for each other.
    others = (8, 3, items), (8, 1, 128), (4, 1, 32)
    return first, *(config(warps, stages, **sizes, ITEMS=count) for warps, stages, count in others), *streamed


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
