"""Computations as CUDA graphs: recorded once, then launched at once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["CudaGraphs"]


class CudaGraphs:
    """Captures computations as CUDA graphs of one device.

    They share their memory: what a replay returns holds until the next replay of any of them. All graphs of a process
    are to be replayed on one stream at a time: they were captured on one, whose cuBLAS workspace is in all of them.
    """

    # One capture at a time in a process: torch's allocator and generator take part in it.
    _capturing = threading.Lock()

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        # Graphs whose capture broke are kept: torch's allocators may still refer to them and to their pools.
        self._broken: list[torch.cuda.CUDAGraph] = []

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The replay of `run`, to be launched on the current stream. `run` must have run in this thread before.

        Raises what `run` raises, or CUDA where `run` does what cannot be captured; torch remains usable.
        """
        # A pool lives as long as one of its graphs, and cannot be opened again.
        pool = next((graph.pool() for graph in self._graphs), None) or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        stream = _capture_stream(self.device)
        # torch.cuda.graph leaves its stream the current one when a capture breaks; the outer context puts it back.
        with self._capturing, torch.cuda.device(self.device), torch.cuda.stream(stream):
            # The graph must not read copies of weights that autocast made before it, nor leave its own to others.
            torch.clear_autocast_cache()
            try:
                with torch.inference_mode(False), torch.no_grad(), _capture_into(graph, pool, stream):
                    out = run()
            except BaseException:
                self._broken.append(graph)
                self._graphs.clear()  # later graphs get another pool
                _end_broken_capture(self.device, pool, stream)
                raise
            finally:
                torch.clear_autocast_cache()
        self._graphs.add(graph)

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


def _capture_into(graph: torch.cuda.CUDAGraph, pool: Any, stream: torch.cuda.Stream) -> torch.cuda.graph:
    # thread_local: what other threads do meanwhile (pin memory, allocate) is none of this capture's business
    return torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One per device: cuBLAS keeps a workspace for every stream that it was used on."""
    return torch.cuda.Stream(device)


def _end_broken_capture(device: torch.device, pool: Any, stream: torch.cuda.Stream) -> None:
    """Takes torch's allocator and generator out of a capture that CUDA refused; torch leaves them in it."""
    with suppress(RuntimeError):  # not in it any more: `run` raised, and the capture ended in order
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)
    # The next random number would be refused until a capture ends in order.
    with torch.inference_mode(False), _capture_into(torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), stream):
        torch.zeros(1, device=device)
