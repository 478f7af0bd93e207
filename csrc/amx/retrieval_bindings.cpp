#include "amx/bindings.h"

#include "amx/retrieval.h"
#include "retrieval_tuples.h"

namespace rearec::amx {
namespace {

// (tiles, bounds or 0, center or 0, items, width)
using ItemTilesTuple = std::tuple<Address, Address, Address, int64_t, int64_t>;
// (values, is bfloat16, row stride)
using TableTuple = std::tuple<Address, bool, int64_t>;
// (tiles, bounds [4, padded rows], is_bounded, padded rows)
using RowTilesTuple = std::tuple<Address, Address, Address, int64_t>;
// (scores [2, parts, padded rows, capacity], items, state [2, parts, padded rows], thresholds, capacity)
using CandidatesTuple = std::tuple<Address, Address, Address, Address, int64_t>;

ItemTiles to_item_tiles(const ItemTilesTuple& t) {
  const auto& [tiles, bounds, center, items, width] = t;
  return {pointer(tiles), pointer<float>(bounds), pointer<float>(center), items, width};
}

Table to_table(const TableTuple& t) {
  const auto& [values, is_bfloat16, row_stride] = t;
  return {pointer(values), is_bfloat16, row_stride};
}

void pack(const ItemTilesTuple& to, const TableTuple& from, int threads) {
  const ItemTiles tiles = to_item_tiles(to);
  const Table table = to_table(from);
  pybind11::gil_scoped_release release;
  pack_items(tiles, table, threads);
}

int64_t search(Address hidden, const ItemTilesTuple& catalog, const TableTuple& table, const ExclusionTuple& exclusion,
               const RowTilesTuple& rows, const CandidatesTuple& candidates, const BestTuple& best, Address is_proven,
               int parts) {
  TileTopK a{};
  a.hidden = pointer<float>(hidden);
  a.catalog = to_item_tiles(catalog);
  a.table = to_table(table);
  a.exclusion = to_exclusion(exclusion);
  a.best = to_best(best);
  a.is_proven = pointer<bool>(is_proven);
  const auto& [tiles, row_bounds, is_bounded, padded] = rows;
  float* const bounds = pointer<float>(row_bounds);
  a.rows = {pointer(tiles), bounds, bounds + padded, bounds + 2 * padded, bounds + 3 * padded,
            pointer<bool>(is_bounded), a.best.rows};
  const auto& [scores, items, state, thresholds, capacity] = candidates;
  float* const upper = pointer<float>(scores);
  int64_t* const count = pointer<int64_t>(state);
  a.candidates = {upper, upper + parts * padded * capacity, pointer<int64_t>(items), count, count + parts * padded,
                  pointer<float>(thresholds), capacity, parts};
  pybind11::gil_scoped_release release;
  return topk(a);
}

}  // namespace

void bind_retrieval(pybind11::module_ module) {
  module.def("pack_items", &pack);
  module.def("topk", &search);
  module.attr("BLOCK") = kBlockItems;
}

}  // namespace rearec::amx
