// Cached reasoning attention on the CPU: arguments of the kernels and their table, one per instruction set.
#pragma once
#include <cstdint>

namespace rearec {

enum class DType : int { float32 = 0, bfloat16 = 1 };

// K and V of the prefixes, [prefixes, slots, kv_heads, head_dim]: outer strides in elements, the last dimension dense.
struct Prefix {
  const void* k;
  const void* v;
  int64_t k_stride[3];  // prefix, slot, head
  int64_t v_stride[3];
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

struct Dropout {
  double p;  // 0: none
  uint64_t seed;
};

struct AttentionShape {
  DType dtype;  // of q, k, v and the output
  int64_t queries;  // new tokens per row
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t tokens;  // reasoning tokens per row, the new ones included (they are the last `queries` of them)
  float scale;
  int threads;
};

struct AttentionForward {
  AttentionShape shape;
  Prefix prefix;
  Rows rows;
  Dropout dropout;
  const TokenSegment* segments;  // together `tokens` tokens
  int segment_count;
  const void* q;  // [rows, queries, heads, head_dim], dense
  // When set, the new tokens [rows, queries, kv_heads, head_dim], copied into the end of the (single) segment first.
  const void* new_k;
  const void* new_v;
  void* out;  // like q
  // When set: probabilities [rows, heads, queries, slots] and [rows, heads, queries, tokens], 0 where a query does not
  // see, with the sign bit set where dropout dropped them. Not yet divided by the keep probability.
  float* prefix_probs;
  float* token_probs;
};

struct AttentionBackward {
  AttentionShape shape;
  Prefix prefix;
  Rows rows;
  double dropout_p;
  const TokenSegment* segments;
  int segment_count;
  const void* q;
  const void* grad_out;       // like q
  const float* prefix_probs;  // of the forward
  const float* token_probs;
  void* grad_q;          // like q
  float* prefix_dscores;  // [rows, heads, queries, slots]: gradient of q.k before scaling by k, softmax_scale included
  void* grad_token_k;    // [rows, tokens, kv_heads, head_dim], dense
  void* grad_token_v;
};

// One reasoning step's share of the prefix gradient.
struct StepGradient {
  const float* dscores;  // [rows, heads, queries, slots], outer strides dense
  const float* probs;    // the same; entries with the sign bit set were dropped and count as 0
  const void* q;         // [rows, queries, heads, head_dim], dense
  const void* grad_out;  // the same, divided by the keep probability
  int64_t queries;
};

struct PrefixGradient {
  DType dtype;
  const StepGradient* steps;
  int64_t step_count;
  Rows rows;
  const int32_t* offsets;  // [prefixes + 1]: the rows of prefix s are order[offsets[s]:offsets[s + 1]]
  int64_t prefixes, slots, heads, kv_heads, head_dim;
  void* grad_k;  // [prefixes, slots, kv_heads, head_dim], dense
  void* grad_v;
  int threads;
};

struct AttentionKernels {
  void (*forward)(const AttentionForward&);
  void (*backward)(const AttentionBackward&);
  void (*prefix_gradient)(const PrefixGradient&);
};

namespace baseline { extern const AttentionKernels attention; }
namespace x86_64_v3 { extern const AttentionKernels attention; }
namespace x86_64_v4 { extern const AttentionKernels attention; }

}  // namespace rearec
