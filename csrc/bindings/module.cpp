// Python module rearec_kernels._C: addresses, sizes and strides in, nothing of torch inside. The callers in
// rearec_kernels/cpu/ and rearec_kernels/cuda/ own shapes, dtypes, devices and lifetimes.
#include "bindings/module.h"

#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cpu/runtime/waiting.h"
#include "kernel_limits.h"

namespace rearec {
namespace {

namespace py = pybind11;

py::dict build_info(Isa chosen) {
  std::vector<std::string> isas;
  for (Isa isa : usable_isas()) isas.push_back(isa_name(isa));
  py::dict info;
  info["compiler"] = __VERSION__;
  info["isas"] = isas;
  info["isa"] = isa_name(chosen);
  info["tiles"] = has_tile_engine(chosen) ? tile_engine_name(chosen) : "none";
#if defined(_OPENMP)
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
#if defined(REAREC_CUDA_ARCHS)
  info["cuda_archs"] = REAREC_CUDA_ARCHS;
#else
  info["cuda_archs"] = "";
#endif
  info["limits"] = py::dict(py::arg("head_dim") = kMaxHeadDim, py::arg("ensemble_states") = kMaxEnsembleStates);
  return info;
}

void bind(py::module_& module) {
  const Isa chosen = chosen_isa();  // throws, as an ImportError, when REAREC_CPU_ISA names one that is not there
  module.def("build_info", [chosen] { return build_info(chosen); });
  module.def("waits_asleep", &waits_asleep);
  bind_memory(module);
  bind_attention(module, chosen);
  bind_layer_norm(module, chosen);
  bind_losses(module, chosen);
  bind_retrieval(module, chosen);
  bind_rollout(module, chosen);
  if (has_tile_engine(chosen)) {
    py::module_ kernels = module.def_submodule("tiles");
    kernels.attr("ENGINE") = tile_engine_name(chosen);
    kernels.attr("MULTIPLIES_BF16") = multiplies_bfloat16(chosen);
    tiles::bind_losses(kernels, chosen);
    tiles::bind_retrieval(kernels, chosen);
  }
#if defined(REAREC_CUDA_ARCHS)
  py::module_ cuda = module.def_submodule("cuda");
  cuda::bind_attention(cuda);
#endif
}

}  // namespace
}  // namespace rearec

PYBIND11_MODULE(_C, module) { rearec::bind(module); }
