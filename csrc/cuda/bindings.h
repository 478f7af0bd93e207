// What _C.cuda holds.
#pragma once
#include <pybind11/pybind11.h>

namespace rearec::cuda {

void bind(pybind11::module_ module);

}  // namespace rearec::cuda
