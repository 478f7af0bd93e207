// The launchers of csrc/cuda as a Python module of their own: what _C.cuda is, compiled for the simulator.
#include "cuda/bindings.h"

PYBIND11_MODULE(cuda_on_cpu, module) { rearec::cuda::bind(module); }
