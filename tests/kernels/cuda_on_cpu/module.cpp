// The launchers of csrc/cuda as a Python module of their own: what _C.cuda is, compiled for the simulator.
#include <cuda_runtime.h>

#include "bindings/cuda/attention.cpp"  // here, since pybind11's headers are most of what compiling either takes

PYBIND11_MODULE(cuda_on_cpu, module) {
  rearec::cuda::bind_attention(module);
  module.def("set_multiprocessors", [](int count) { cuda_on_cpu::multiprocessors = count; });
}
