#include "cpu/rollout.h"

#include <stdexcept>

#include "bindings/module.h"
#include "bindings/tuples.h"
#include "cpu/recycled_memory.h"

namespace rearec {

void bind_rollout(py::module_& module, Isa chosen) {
  const RolloutKernels& kernels = REAREC_KERNELS(rollout, chosen);
  module.def("packed_layers_floats", [&kernels](const py::tuple& stack) {
    ListMemory memory;
    return kernels.packed_floats(read<LayerStack>(stack.ptr(), memory));
  });
  def<PackLayers>(module, "pack_layers", [&kernels](const PackLayers& a) {
    if (a.tensors.count != kInputTensors + kLayerTensors * a.stack.layers)
      throw std::invalid_argument("pack_layers: as many tensors as kInputTensors + layers * kLayerTensors");
    kernels.pack_layers(a);
  });
  def<Rollout>(module, "rollout", [&kernels](const Rollout& a) {
    const RecycledBlock scratch(sizeof(float) * static_cast<size_t>(kernels.scratch_floats(a)));
    kernels.rollout(a, static_cast<float*>(scratch.block.data));
  });
}

}  // namespace rearec
