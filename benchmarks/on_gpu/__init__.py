"""What `benchmarks/gpu.py` runs: checks of the build on a machine with an NVIDIA GPU, and measurements there."""
