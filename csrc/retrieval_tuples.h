// The operands that all kernels of retrieval share, as Python hands them over.
#pragma once
#include <tuple>

#include "addresses.h"
#include "cpu/retrieval.h"

namespace rearec {

// (begin or 0, end or 0, items, count)
using ExclusionTuple = std::tuple<Address, Address, Address, int64_t>;
// (scores, items, rows, k)
using BestTuple = std::tuple<Address, Address, int64_t, int64_t>;

inline Exclusion to_exclusion(const ExclusionTuple& t) {
  const auto& [begin, end, items, count] = t;
  return {pointer<int64_t>(begin), pointer<int64_t>(end), pointer<int64_t>(items), count};
}

inline Best to_best(const BestTuple& t) {
  const auto& [scores, items, rows, k] = t;
  return {pointer<float>(scores), pointer<int64_t>(items), rows, k};
}

}  // namespace rearec
