#include "cpu/layer_norm.h"

#include "bindings/module.h"
#include "bindings/tuples.h"

namespace rearec {

void bind_layer_norm(py::module_& module, Isa chosen) {
  const LayerNormKernels& kernels = REAREC_KERNELS(layer_norm, chosen);
  def(module, "layer_norm_forward", kernels.forward);
  def(module, "layer_norm_backward", kernels.backward);
}

}  // namespace rearec
