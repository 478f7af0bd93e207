"""rearec_kernels: fused kernels for latent-reasoning recommenders, on CPUs and GPUs.

What a user calls is what this module exports; see each function's docstring for shapes, dtypes and errors.
"""

from rearec_kernels.attention import cached_reason_attention
from rearec_kernels.cache import PrefixRows, ReasoningCache
from rearec_kernels.dispatch import available_backends, build_info, use_backend

__all__ = [
    "PrefixRows",
    "ReasoningCache",
    "available_backends",
    "build_info",
    "cached_reason_attention",
    "use_backend",
]
