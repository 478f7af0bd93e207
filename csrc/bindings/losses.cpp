#include "cpu/losses.h"

#include "bindings/module.h"
#include "bindings/tuples.h"
#include "kernel_limits.h"

namespace rearec {

void bind_losses(py::module_& module, Isa chosen) {
  const LossKernels& kernels = REAREC_KERNELS(losses, chosen);
  def(module, "cross_entropy_statistics", kernels.cross_entropy_statistics);
  def(module, "cross_entropy_gradient", kernels.cross_entropy_gradient);
  def(module, "cross_entropy", kernels.cross_entropy);
  def(module, "ensemble_statistics", kernels.ensemble_statistics);
  def(module, "ensemble_gradient", kernels.ensemble_gradient);
  def(module, "ensemble", kernels.ensemble);
  def(module, "mask_groups", kernels.mask_groups);
  module.attr("LOGITS_PADDING") = kPadding;
  module.attr("MAX_ENSEMBLE_STATES") = kMaxEnsembleStates;
}

}  // namespace rearec
