"""How the benchmarks measure: contenders in turn in one process, on a CPU or a GPU, and what machine that was."""
