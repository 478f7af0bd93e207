// Compiled without a CUDA header.
#include "cuda/attention.h"

#include "bindings/module.h"
#include "bindings/tuples.h"
#include "philox.h"

namespace rearec {

// Python hands over (probability, seed, mask rows).
template <>
cuda::Dropout read_struct<cuda::Dropout>(PyObject* tuple, ListMemory& memory) {
  struct Given {
    double p;
    const int64_t* seed;
    MaskRows rows;
  };
  const Given given = read_struct<Given>(tuple, memory);
  return {given.seed, dropout_threshold(given.p), static_cast<float>(1.0 / (1.0 - given.p)), given.rows};
}

void cuda::bind_attention(py::module_& module) {
  def(module, "attention_forward", attention_forward);
  def(module, "attention_backward", attention_backward);
  def(module, "attention_prefix_gradient", attention_prefix_gradient);
  module.def("synchronize", [](uintptr_t stream) { synchronize(reinterpret_cast<void*>(stream)); },
             py::call_guard<py::gil_scoped_release>());
  module.attr("MAX_HEAD_DIM") = kMaxHeadDim;
  module.attr("MAX_SEGMENTS") = kMaxSegments;
  module.attr("MAX_STEPS") = kMaxSteps;
}

}  // namespace rearec
