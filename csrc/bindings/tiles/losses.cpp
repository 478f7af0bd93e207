#include "cpu/tiles/losses.h"

#include "bindings/module.h"
#include "bindings/tuples.h"

namespace rearec::tiles {

void bind_losses(py::module_& module) {
  module.def("scratch_bytes", [](const py::tuple& softmax) {
    ListMemory memory;
    return amx::scratch_bytes(read<SoftmaxOverItems>(softmax.ptr(), memory));
  });
  def(module, "cross_entropy", amx::cross_entropy);
  def(module, "ensemble", amx::ensemble);
}

}  // namespace rearec::tiles
