// Who puts what into rearec_kernels._C: a function for every family of ops, and for what only some builds have.
#pragma once
#include <pybind11/pybind11.h>

#include "cpu/isa.h"

namespace rearec {

void bind_attention(pybind11::module_& module, Isa chosen);
void bind_layer_norm(pybind11::module_& module, Isa chosen);
void bind_losses(pybind11::module_& module, Isa chosen);
void bind_memory(pybind11::module_& module);
void bind_retrieval(pybind11::module_& module, Isa chosen);
void bind_rollout(pybind11::module_& module, Isa chosen);

namespace tiles {
void bind_losses(pybind11::module_& module, Isa chosen);
void bind_retrieval(pybind11::module_& module, Isa chosen);
}  // namespace tiles

namespace cuda {
void bind_attention(pybind11::module_& module);
}  // namespace cuda

}  // namespace rearec
