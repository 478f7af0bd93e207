#include "cpu/tiles/retrieval.h"

#include "bindings/module.h"
#include "bindings/tuples.h"

namespace rearec::tiles {

void bind_retrieval(py::module_& module, Isa chosen) {
  const RetrievalEngine& engine = REAREC_TILE_ENGINE(retrieval, chosen);
  def(module, "pack_items", engine.pack_items);
  def(module, "topk", engine.topk);
  def(module, "rank", engine.rank);
  module.attr("BLOCK") = kBlockItems;
}

}  // namespace rearec::tiles
