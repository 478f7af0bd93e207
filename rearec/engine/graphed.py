"""Inference with the whole forward pass as one CUDA graph per shape.

A pass is many small kernels: for every reasoning step and layer the projections, the attention and the feed-forward
layer of one token per row. Launched one by one they take longer to launch than to run; a graph launches them at once.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace

import torch
from torch import Tensor

from rearec.data.batch import IGNORE_INDEX, Batch
from rearec.engine.cuda_graphs import CudaGraphs
from rearec.models.transformer import TransformerBackbone
from rearec.reasoning import ReaRec
from rearec_kernels import resolve_backend

__all__ = ["Capture", "GraphedPasses"]

# The states [R, T, d] of a batch after so many reasoning steps.
Pass = Callable[[Batch, int], Tensor]
# Turns a computation on tensors that stay where they are into its replay: calling that again computes it from what they
# then hold, into the tensor that it returned before.
Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class GraphedPasses:
    """Passes of one model for inference; on a GPU, by replaying CUDA graphs of whole passes.

    A graph is made for a shape: windows, slots, rows and steps, and whatever else decides which kernels run. Batches
    are padded to few shapes (rows and windows to a power of two, above 256 to a multiple of 256; slots to a multiple of
    8, at most ``config.max_len``). A graph costs a few passes to make, so a shape gets one when it comes for the second
    time. Graphs read the memory that the weights had when they were captured.

    The pass is simply made where there is nothing to replay: on a CPU, under REAREC_DEBUG=1 (which looks at values and
    so waits for the GPU), and while the caller captures a graph of its own. Where a capture fails it says so in one
    warning, and captures no more.

    Threads take turns; all of them must compute on one CUDA stream. A replay runs no Python: hooks stay silent.

    Args:
        run: the pass, called without gradients for batches on the model's device.
        model: whose pass it is.
        weight: the item table; its device and dtype are those of the pass.
        max_graphs: most shapes kept; beyond that, those that were not used for longest are dropped. 64 are enough for
            every shape that `Recommender` makes of up to 256 histories of up to 50 items.
        capture: how to record a pass; None for CUDA graphs, and then only where the model is on a GPU.
        exchanges: whether a pass exchanges anything with other processes, which no graph can hold.

    Raises:
        ValueError: max_graphs is below 1.
    """

    def __init__(
        self,
        run: Pass,
        model: ReaRec,
        weight: Tensor,
        *,
        max_graphs: int,
        capture: Capture | None,
        exchanges: bool = False,
    ) -> None:
        if max_graphs < 1:
            raise ValueError(f"max_graphs: got {max_graphs}, expected 1 or more")
        self._run = run
        self._config = model.config
        self._has_kernels_of_ours = isinstance(model.backbone, TransformerBackbone)
        self._device, self._dtype = weight.device, weight.dtype
        self._max_graphs = max_graphs
        self._exchanges = exchanges
        self._given_capture = capture
        self._capture = capture or CudaGraphs(weight.device)
        self._capture_failed = False
        # The passes over padded batches by shape, the last one used last.
        self._passes: OrderedDict[Hashable, _PaddedPass] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_graphs(self) -> int:
        """How many graphs are kept."""
        return sum(padded.replay is not None for padded in self._passes.values())

    def __call__(self, batch: Batch, steps: int) -> Tensor:
        """The states [R, T, d], up to rounding: products of padded shapes may round differently.

        batch: on any device. The states are the caller's own; no later call writes to them.
        """
        if self._can_replay(batch):
            with self._lock:
                if not self._capture_failed:
                    return self._padded_states(batch, steps)
        return self._run(batch.to(self._device, non_blocking=True), steps)

    def _can_replay(self, batch: Batch) -> bool:
        # The model refuses a batch of wrong shapes; padding would hide what is wrong with it.
        if self._exchanges or batch.items.ndim != 2 or batch.items.shape[1] > self._config.max_len:
            return False
        if batch.row_prefix.shape != batch.end.shape or batch.slot is not None:
            return False
        if self._given_capture is not None:
            return True
        if self._device.type != "cuda" or os.environ.get("REAREC_DEBUG") == "1":
            return False
        return not torch.cuda.is_current_stream_capturing()

    def _padded_states(self, batch: Batch, steps: int) -> Tensor:
        """The states [R, T, d] of the batch's rows."""
        shape = _padded_shape(batch, self._config.max_len)
        key = (shape, steps, self._kernel_choice(steps))
        first_time = key not in self._passes
        padded = _PaddedPass(self._run, self._device, steps, *shape) if first_time else self._passes[key]
        padded.load(batch)
        if padded.replay is not None:
            states = padded.replay()
        else:
            states = padded.run()  # which also warms up the kernels, in the thread that captures them
            if not first_time:
                self._record(padded)
        if not self._capture_failed:
            self._passes[key] = padded
            self._passes.move_to_end(key)
            if len(self._passes) > self._max_graphs:
                self._passes.popitem(last=False)
        return states[: batch.num_rows].clone()

    def _record(self, padded: _PaddedPass) -> None:
        try:
            padded.replay = self._capture(padded.run)
        except Exception as error:  # of whatever kind: the same pass has just succeeded without a graph
            self._capture_failed = True
            self._passes.clear()
            warnings.warn(
                f"the model cannot be captured as a CUDA graph, its kernels are launched one by one: {_reason(error)}",
                stacklevel=5,
            )

    def _kernel_choice(self, steps: int) -> Hashable:
        """What the choice of kernels depends on beside the shape: a graph keeps those that it was captured with."""
        kind = self._device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        backend = None
        if steps > 0 and self._has_kernels_of_ours:
            head_dim = self._config.dim // self._config.heads
            dtype = autocast or self._dtype
            backend = resolve_backend("cached_reason_attention", self._device, dtype, head_dim=head_dim)
        return autocast, backend, torch.backends.cuda.matmul.fp32_precision


def _reason(error: BaseException) -> str:
    """One line; ending a capture that broke is an error too, behind which the first one hides."""
    text = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return text if error.__context__ is None else f"{text}, after {_reason(error.__context__)}"


def _padded_shape(batch: Batch, max_len: int) -> tuple[int, int, int]:
    """Windows S, slots C and rows R of the padded batch."""
    windows, slots = batch.items.shape
    return _round_up(windows), min(-(-slots // 8) * 8, max_len), _round_up(batch.num_rows)


def _round_up(count: int) -> int:
    """To a power of two, above 256 to a multiple of 256."""
    return 1 << max(count - 1, 0).bit_length() if count <= 256 else -(-count // 256) * 256


class _PaddedPass:
    """The pass over S windows of C slots and R rows, on inputs that stay where they are."""

    def __init__(self, run: Pass, device: torch.device, steps: int, windows: int, slots: int, rows: int) -> None:
        self._run = run
        self.steps = steps
        self.replay: Callable[[], Tensor] | None = None
        # Outside of the caller's inference mode, whose tensors can only be written to inside of one.
        with torch.inference_mode(False):
            self.inputs = Batch(
                items=torch.zeros(windows, slots, dtype=torch.int64, device=device),
                lengths=torch.full((windows,), slots, dtype=torch.int32, device=device),
                row_prefix=torch.zeros(rows, dtype=torch.int32, device=device),
                end=torch.ones(rows, dtype=torch.int32, device=device),
                target=torch.full((rows,), IGNORE_INDEX, dtype=torch.int64, device=device),
                group=torch.arange(rows, device=device),
            )

    def load(self, batch: Batch) -> None:
        """Copies in what the model reads. Padding: item 0, and rows that see the first slot of the last window."""
        _write(self.inputs.items, batch.items, padding=0)
        _write(self.inputs.row_prefix, batch.row_prefix, padding=self.inputs.num_windows - 1)
        _write(self.inputs.end, batch.end, padding=1)

    def run(self) -> Tensor:
        """The states of all rows, [R, T, d]."""
        # another batch of the same tensors: their `rows` are to be those of what was loaded last
        return self._run(replace(self.inputs), self.steps)


def _write(buffer: Tensor, values: Tensor, padding: int) -> None:
    if buffer.shape != values.shape:
        buffer.fill_(padding)
    buffer[tuple(map(slice, values.shape))].copy_(values, non_blocking=True)
