"""Every op in plain PyTorch, written for reading: any device and dtype, float64-safe, in log space.

This is the oracle of the tests and the fallback where no faster backend serves a device or a dtype. Functions have the
names and arguments of the ops in `rearec_kernels.ops`.
"""

from rearec_kernels.reference.attention import (
    attention,
    attention_backward,
    attention_decode,
    attention_prefix_gradient,
)
from rearec_kernels.reference.layer_norm import dropout_add_layer_norm
from rearec_kernels.reference.losses import (
    annealed_cross_entropy,
    annealed_cross_entropy_rows,
    annealed_cross_entropy_rows_backward,
    ensemble_reasoning_loss,
    reasoning_info_nce,
    reasoning_info_nce_rows,
    reasoning_info_nce_rows_backward,
    scaled_gradients,
)
from rearec_kernels.reference.retrieval import (
    catalog_rank,
    catalog_topk,
)
from rearec_kernels.reference.rollout import (
    pack_layers,
    rollout,
)

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
    "dropout_add_layer_norm",
    "ensemble_reasoning_loss",
    "pack_layers",
    "reasoning_info_nce",
    "reasoning_info_nce_rows",
    "reasoning_info_nce_rows_backward",
    "rollout",
    "scaled_gradients",
]
