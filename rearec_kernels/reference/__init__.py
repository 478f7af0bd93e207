"""Every op in plain PyTorch, written for reading: any device and dtype, float64-safe, in log space.

This is the oracle of the tests and the fallback where no faster backend serves a device or a dtype. Files and functions
have the names of those in `rearec_kernels.ops`; their arguments are the ops' records.
"""
