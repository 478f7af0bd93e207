// Cached reasoning attention on the CPU: arguments of the kernels and their table, one per instruction set.
#pragma once
#include "attention_arguments.h"
#include "lists.h"
#include "mask_rows.h"

namespace rearec {

struct AttentionForward {
  AttentionShape shape;
  Prefix prefix;
  Rows rows;
  List<TokenSegment> segments;  // together `tokens` tokens
  double dropout_p;             // 0: none
  uint64_t seed;
  MaskRows mask_rows;
  const void* q;  // [rows, queries, heads, head_dim], dense
  // When set, the new tokens [rows, queries, kv_heads, head_dim], copied into the end of the (single) segment first.
  const void* new_k;
  const void* new_v;
  void* out;  // like q
  // When set: probabilities [rows, heads, queries, slots] and [rows, heads, queries, tokens], 0 where a query does not
  // see, with the sign bit set where dropout dropped them. Not yet divided by the keep probability.
  float* prefix_probs;
  float* token_probs;
  int threads;
};

struct AttentionBackward {
  AttentionShape shape;
  Prefix prefix;
  Rows rows;
  List<TokenSegment> segments;
  double dropout_p;
  const void* q;
  const void* grad_out;       // like q
  const float* prefix_probs;  // of the forward
  const float* token_probs;
  void* grad_q;          // like q
  float* prefix_dscores;  // [rows, heads, queries, slots]: gradient of q.k before scaling by k, softmax_scale included
  void* grad_token_k;    // [rows, tokens, kv_heads, head_dim], dense
  void* grad_token_v;
  int threads;
};

struct PrefixGradient {
  DType dtype;
  List<StepGradient> steps;
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
