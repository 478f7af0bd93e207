"""The CUDA backend: hands addresses, sizes and strides of dense tensors to the launchers in csrc/cuda.

Files and functions have the names of those in `rearec_kernels.ops`; float32, bfloat16 and float16, float32 inside.
Nothing waits for the device, except under REAREC_DEBUG=1, where a failing kernel raises in its own call.
"""
