#include "cpu/losses.h"

#include "bindings/module.h"
#include "bindings/tuples.h"
#include "kernel_limits.h"

namespace rearec {

void bind_losses(py::module_& module, Isa chosen) {
  const LossKernels& kernels = REAREC_KERNELS(losses, chosen);
  def(module, "cross_entropy", kernels.cross_entropy);
  def(module, "ensemble", kernels.ensemble);
  module.attr("LOGITS_PADDING") = kLogitsPadding;
  module.attr("MAX_ENSEMBLE_STATES") = kMaxEnsembleStates;
}

}  // namespace rearec
