#include "amx/bindings.h"

namespace rearec::amx {

void bind(pybind11::module_ module) {
  bind_losses(module);
  bind_retrieval(module);
}

}  // namespace rearec::amx
