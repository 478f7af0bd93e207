#include "cpu/retrieval.h"

#include "bindings/module.h"
#include "bindings/tuples.h"
#include "kernel_limits.h"

namespace rearec {

void bind_retrieval(py::module_& module, Isa chosen) {
  const RetrievalKernels& kernels = REAREC_KERNELS(retrieval, chosen);
  def(module, "topk", kernels.topk);
  def(module, "topk_direct", kernels.topk_direct);
  def(module, "topk_sort", kernels.topk_sort);
  def(module, "rank", kernels.rank);
  def(module, "rank_direct", kernels.rank_direct);
  module.attr("MAX_DIRECT_ROWS") = kMaxDirectRows;
}

}  // namespace rearec
