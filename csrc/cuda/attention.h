// Cached reasoning attention on CUDA devices: arguments of the launchers. Every address is one of the device.
#pragma once
#include "attention_arguments.h"
#include "kernel_limits.h"
#include "lists.h"
#include "mask_rows.h"

namespace rearec::cuda {

using Segments = ShortList<TokenSegment, kMaxSegments>;

struct Dropout {
  const int64_t* seed;  // null: none, or already in the probabilities
  uint32_t threshold;   // words below it are dropped
  float keep;           // 1 / (1 - p)
  MaskRows rows;
};

// The new tokens [rows, queries, kv_heads, head_dim], dense, and the buffers that they are copied to, token by token.
struct Append {
  const void* k;  // null: nothing to append
  const void* v;
  void* buffer_k;
  void* buffer_v;
  int64_t row_stride;
  int64_t token_stride;
};

struct AttentionForward {
  AttentionShape shape;
  Prefix prefix;
  Rows rows;
  int64_t prefixes;
  Segments segments;  // together shape.tokens tokens; the buffers of `append` are not among them
  Append append;
  Dropout dropout;
  const void* q;  // [rows, queries, heads, head_dim], dense
  void* out;      // like q
  // When set: probabilities [rows, heads, queries, slots] and [rows, heads, queries, tokens], 0 where a query does not
  // see, with the sign bit set where dropout dropped them. Not yet divided by the keep probability.
  float* prefix_probs;
  float* token_probs;
  void* stream;
};

struct AttentionBackward {
  AttentionShape shape;
  Prefix prefix;
  Rows rows;
  int64_t prefixes;
  Segments segments;
  Segments grad_segments;     // like `segments`, written
  Dropout dropout;
  const void* q;              // [rows, queries, heads, head_dim], dense
  const void* grad_out;       // like q
  const float* prefix_probs;  // of the forward
  const float* token_probs;
  void* grad_q;           // like q
  float* prefix_dscores;  // [rows, heads, queries, slots]: gradient of q.k before scaling by k, softmax_scale included
  float* token_dscores;   // [rows, heads, queries, tokens]: the same for the reasoning tokens; scratch
  void* stream;
};

struct PrefixGradient {
  DType dtype;
  ShortList<StepGradient, kMaxSteps> steps;
  Rows rows;
  const int32_t* offsets;  // [prefixes + 1]: the rows of prefix s are order[offsets[s]:offsets[s + 1]]
  int64_t prefixes, slots, heads, kv_heads, head_dim;
  void* grad_k;  // [prefixes, slots, kv_heads, head_dim], dense
  void* grad_v;
  void* stream;
};

// Each launches on `stream`, a cudaStream_t of the current device, and throws std::runtime_error where that fails.
void attention_forward(const AttentionForward& arguments);
void attention_backward(const AttentionBackward& arguments);
void attention_prefix_gradient(const PrefixGradient& arguments);

// Waits for what was launched on `stream` and throws if any of it failed. Does nothing while a graph is captured.
void synchronize(void* stream);

}  // namespace rearec::cuda
