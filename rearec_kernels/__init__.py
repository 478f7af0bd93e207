"""rearec_kernels: fused kernels for latent-reasoning recommenders, on CPUs and GPUs.

What a user calls is what this module exports; see each function's docstring for shapes, dtypes and errors. Their
examples stand after `import torch` and `from rearec_kernels import *`.
"""

from rearec_kernels import interpreter  # noqa: F401  (first: importing torch in a subinterpreter may crash)
from rearec_kernels.attention import cached_reason_attention
from rearec_kernels.backends import available_backends, build_info
from rearec_kernels.cache import ReasoningCache
from rearec_kernels.contrastive import reasoning_info_nce
from rearec_kernels.dispatch import resolve_backend, use_backend
from rearec_kernels.layer_norm import dropout_add_layer_norm
from rearec_kernels.layer_weights import LayerWeights, PreparedLayers, prepare_layers
from rearec_kernels.losses import (
    EnsembleLoss,
    annealed_cross_entropy,
    annealed_temperatures,
    ensemble_reasoning_loss,
)
from rearec_kernels.ops.arguments import MaskRows
from rearec_kernels.retrieval import PreparedCatalog, catalog_rank, catalog_topk, prepare_catalog
from rearec_kernels.rollout import reasoning_rollout
from rearec_kernels.rows import PrefixRows
from rearec_kernels.shards import CatalogShard

__all__ = [
    "CatalogShard",
    "EnsembleLoss",
    "LayerWeights",
    "MaskRows",
    "PrefixRows",
    "PreparedCatalog",
    "PreparedLayers",
    "ReasoningCache",
    "annealed_cross_entropy",
    "annealed_temperatures",
    "available_backends",
    "build_info",
    "cached_reason_attention",
    "catalog_rank",
    "catalog_topk",
    "dropout_add_layer_norm",
    "ensemble_reasoning_loss",
    "prepare_catalog",
    "prepare_layers",
    "reasoning_info_nce",
    "reasoning_rollout",
    "resolve_backend",
    "use_backend",
]
