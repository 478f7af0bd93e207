"""The Triton backend: fused losses, retrieval and attention for GPUs, in Triton's language.

Files and functions have the names of those in `rearec_kernels.ops`; float32, bfloat16 and float16, float32 inside.
Nothing waits for the device. Under TRITON_INTERPRET=1 the kernels run on CPU tensors, in Triton's interpreter.
"""
