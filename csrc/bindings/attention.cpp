#include "cpu/attention.h"

#include "bindings/module.h"
#include "bindings/tuples.h"
#include "kernel_limits.h"

namespace rearec {

void bind_attention(py::module_& module, Isa chosen) {
  const AttentionKernels& kernels = REAREC_KERNELS(attention, chosen);
  def(module, "attention_forward", kernels.forward);
  def(module, "attention_backward", kernels.backward);
  def(module, "attention_prefix_gradient", kernels.prefix_gradient);
  module.attr("MAX_HEAD_DIM") = kMaxHeadDim;
}

}  // namespace rearec
