// The operands of attention as Python hands them over: tuples of addresses, sizes and strides.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <tuple>
#include <vector>

#include "addresses.h"
#include "attention_arguments.h"

namespace rearec {

// (dtype, queries, heads, kv_heads, head_dim, tokens, scale)
using ShapeTuple = std::tuple<int, int64_t, int64_t, int64_t, int64_t, int64_t, float>;
// (k, v, k strides, v strides, slots)
using PrefixTuple = std::tuple<Address, Address, std::array<int64_t, 3>, std::array<int64_t, 3>, int64_t>;
// (start, end, row_prefix, order, rows)
using RowsTuple = std::tuple<Address, Address, Address, Address, int64_t>;
// (k, v, row stride, token stride, tokens)
using SegmentTuple = std::tuple<Address, Address, int64_t, int64_t, int64_t>;
// (dscores, probs, q, grad_out, queries)
using StepTuple = std::tuple<Address, Address, Address, Address, int64_t>;

inline AttentionShape to_shape(const ShapeTuple& t) {
  const auto& [dtype, queries, heads, kv_heads, head_dim, tokens, scale] = t;
  return {static_cast<DType>(dtype), queries, heads, kv_heads, head_dim, tokens, scale};
}

inline Prefix to_prefix(const PrefixTuple& t) {
  const auto& [k, v, k_stride, v_stride, slots] = t;
  return {pointer(k), pointer(v), {k_stride[0], k_stride[1], k_stride[2]}, {v_stride[0], v_stride[1], v_stride[2]},
          slots};
}

inline Rows to_rows(const RowsTuple& t) {
  const auto& [start, end, row_prefix, order, count] = t;
  return {pointer<int32_t>(start), pointer<int32_t>(end), pointer<int32_t>(row_prefix), pointer<int32_t>(order), count};
}

inline std::vector<TokenSegment> to_segments(const std::vector<SegmentTuple>& from) {
  std::vector<TokenSegment> to;
  for (const auto& [k, v, row_stride, token_stride, tokens] : from)
    to.push_back({pointer(k), pointer(v), row_stride, token_stride, tokens});
  return to;
}

inline std::vector<StepGradient> to_steps(const std::vector<StepTuple>& from) {
  std::vector<StepGradient> to;
  for (const auto& [dscores, probs, q, grad_out, queries] : from)
    to.push_back({pointer<float>(dscores), pointer<float>(probs), pointer(q), pointer(grad_out), queries});
  return to;
}

}  // namespace rearec
