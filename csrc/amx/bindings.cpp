#include "amx/bindings.h"

namespace rearec::amx {

void bind(pybind11::module_) {}

}  // namespace rearec::amx
