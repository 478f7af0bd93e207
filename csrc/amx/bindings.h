// What _C.amx holds, where the machine has the tiles.
#pragma once
#include <pybind11/pybind11.h>

namespace rearec::amx {

void bind(pybind11::module_ module);
void bind_losses(pybind11::module_ module);
void bind_retrieval(pybind11::module_ module);

}  // namespace rearec::amx
