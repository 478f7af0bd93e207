#include "cpu/tiles/losses.h"

#include "bindings/module.h"
#include "bindings/tuples.h"

namespace rearec::tiles {

void bind_losses(py::module_& module, Isa chosen) {
  const LossEngine& engine = REAREC_TILE_ENGINE(losses, chosen);
  module.def("scratch_bytes", [&engine](const py::tuple& softmax) {
    ListMemory memory;
    return engine.scratch_bytes(read<SoftmaxOverItems>(softmax.ptr(), memory));
  });
  def(module, "cross_entropy", engine.cross_entropy);
  def(module, "ensemble", engine.ensemble);
}

}  // namespace rearec::tiles
