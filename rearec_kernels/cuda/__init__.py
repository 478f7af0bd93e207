"""The CUDA backend: hands addresses, sizes and strides of dense tensors to the launchers in csrc/cuda.

Functions have the names and arguments of the ops in `rearec_kernels.ops`; float32, bfloat16 and float16, float32
inside. Nothing waits for the device, except under REAREC_DEBUG=1, where a failing kernel raises in its own call.
"""

from rearec_kernels.cuda.attention import (
    attention,
    attention_backward,
    attention_decode,
    attention_prefix_gradient,
)

__all__ = [
    "attention",
    "attention_backward",
    "attention_decode",
    "attention_prefix_gradient",
]
