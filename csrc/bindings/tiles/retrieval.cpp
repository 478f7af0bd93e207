#include "cpu/tiles/retrieval.h"

#include "bindings/module.h"
#include "bindings/tuples.h"

namespace rearec::tiles {

void bind_retrieval(py::module_& module) {
  def(module, "pack_items", amx::pack_items);
  def(module, "topk", amx::topk);
  module.attr("BLOCK") = kBlockItems;
}

}  // namespace rearec::tiles
