"""The native CPU backend: hands addresses, sizes and strides of dense tensors to rearec_kernels._C.

Files and functions have the names of those in `rearec_kernels.ops`; float32 and bfloat16. OpenMP threads follow
torch.set_num_threads.
"""
