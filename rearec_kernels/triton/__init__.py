"""The Triton backend: fused losses, retrieval and attention for GPUs, in Triton's language.

Functions have the names and arguments of the ops in `rearec_kernels.ops`; float32, bfloat16 and float16, float32
inside. Nothing waits for the device. Under TRITON_INTERPRET=1 the kernels run on CPU tensors, in Triton's interpreter.
"""

from rearec_kernels.triton.attention import (
    attention,
    attention_backward,
    attention_decode,
    attention_prefix_gradient,
)
from rearec_kernels.triton.ensemble import ensemble_reasoning_loss
from rearec_kernels.triton.losses import (
    annealed_cross_entropy,
    annealed_cross_entropy_rows,
    annealed_cross_entropy_rows_backward,
    reasoning_info_nce,
    reasoning_info_nce_rows,
    reasoning_info_nce_rows_backward,
    scaled_gradients,
)
from rearec_kernels.triton.retrieval import catalog_rank, catalog_topk

__all__ = [
    "annealed_cross_entropy",
    "annealed_cross_entropy_rows",
    "annealed_cross_entropy_rows_backward",
    "attention",
    "attention_backward",
    "attention_decode",
    "attention_prefix_gradient",
    "catalog_rank",
    "catalog_topk",
    "ensemble_reasoning_loss",
    "reasoning_info_nce",
    "reasoning_info_nce_rows",
    "reasoning_info_nce_rows_backward",
    "scaled_gradients",
]
