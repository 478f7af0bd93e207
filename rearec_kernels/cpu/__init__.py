"""The native CPU backend: hands addresses, sizes and strides of dense tensors to rearec_kernels._C.

Functions have the names and arguments of the ops in `rearec_kernels.ops`; float32 and bfloat16. OpenMP threads follow
torch.set_num_threads.
"""

from rearec_kernels.cpu.attention import (
    attention,
    attention_backward,
    attention_decode,
    attention_prefix_gradient,
)
from rearec_kernels.cpu.layer_norm import (
    dropout_add_layer_norm,
    dropout_add_layer_norm_backward,
)
from rearec_kernels.cpu.losses import (
    annealed_cross_entropy,
    annealed_cross_entropy_rows,
    annealed_cross_entropy_rows_backward,
    ensemble_reasoning_loss,
    reasoning_info_nce,
    reasoning_info_nce_rows,
    reasoning_info_nce_rows_backward,
    scaled_gradients,
)
from rearec_kernels.cpu.retrieval import (
    catalog_rank,
    catalog_topk,
)
from rearec_kernels.cpu.rollout import (
    pack_layers,
    rollout,
)
from rearec_kernels.cpu.tiled_topk import catalog_tiles

__all__ = [
    "annealed_cross_entropy",
    "annealed_cross_entropy_rows",
    "annealed_cross_entropy_rows_backward",
    "attention",
    "attention_backward",
    "attention_decode",
    "attention_prefix_gradient",
    "catalog_rank",
    "catalog_tiles",
    "catalog_topk",
    "dropout_add_layer_norm",
    "dropout_add_layer_norm_backward",
    "ensemble_reasoning_loss",
    "pack_layers",
    "reasoning_info_nce",
    "reasoning_info_nce_rows",
    "reasoning_info_nce_rows_backward",
    "rollout",
    "scaled_gradients",
]
