// Where attention of reasoning tokens finds its operands: what the CPU and the CUDA kernels share.
#pragma once
#include <cstdint>

namespace rearec {

enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2 };

struct AttentionShape {
  DType dtype;      // of q, k, v and the output
  int64_t queries;  // new tokens per row
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t tokens;  // reasoning tokens per row, the new ones included (they are the last `queries` of them)
  float scale;
};

struct PrefixStrides {
  int64_t prefix;
  int64_t slot;
  int64_t head;
};

// K and V of the prefixes, [prefixes, slots, kv_heads, head_dim]: outer strides in elements, the last dimension dense.
struct Prefix {
  const void* k;
  const void* v;
  PrefixStrides k_stride;
  PrefixStrides v_stride;
  int64_t slots;
};

// Some reasoning tokens of every row, [rows, count, kv_heads, head_dim]: strides in elements, heads dense.
struct TokenSegment {
  const void* k;
  const void* v;
  int64_t row_stride;
  int64_t token_stride;
  int64_t count;
};

// Row r sees the slots [start[r], end[r]) of prefix row_prefix[r]; `order` lists the rows sorted by prefix.
struct Rows {
  const int32_t* start;
  const int32_t* end;
  const int32_t* row_prefix;
  const int32_t* order;
  int64_t count;
};

// One reasoning step's share of the prefix gradient.
struct StepGradient {
  const float* dscores;  // [rows, heads, queries, slots], outer strides dense
  const float* probs;    // the same; entries with the sign bit set were dropped and count as 0
  const void* q;         // [rows, queries, heads, head_dim], dense
  const void* grad_out;  // the same, divided by the keep probability
  int64_t queries;
};

}  // namespace rearec
