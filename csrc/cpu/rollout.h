// Latent reasoning without gradients on the CPU: all steps of all rows through a stack of post-LN Transformer layers
// (attention over the cached prefix and the row's own tokens, then a GELU feed-forward layer) in one call.
#pragma once
#include "attention_arguments.h"
#include "lists.h"

namespace rearec {

struct LayerStack {
  int64_t layers;
  int64_t heads;
  int64_t head_dim;  // the model width is heads * head_dim
  int64_t ffn;
  float norm_eps;
};

// Dense float32 tensors in this order: weight and bias of the input's LayerNorm; then of every layer weight and bias of
// query, key, value, output, attention LayerNorm, inner, outer and feed-forward LayerNorm. A linear layer's weight is
// [outputs, inputs].
constexpr int kInputTensors = 2;
constexpr int kLayerTensors = 16;

struct PackLayers {
  LayerStack stack;
  List<const float*> tensors;
  float* packed;
};

struct Rollout {
  LayerStack stack;
  const float* packed;     // what pack_layers wrote
  const float* positions;  // [steps, width], added to the state of each step before the input's LayerNorm; or none
  List<Prefix> prefixes;   // K and V of every layer
  Rows rows;
  int64_t steps;
  const float* hidden;  // [rows, width], dense
  float* states;        // [rows, steps + 1, width]: hidden, then the state after each step
  float* tokens;        // [layers, 2, rows, steps, width]: K and V of the new tokens; or none
  int threads;
};

struct RolloutKernels {
  int64_t (*packed_floats)(const LayerStack&);
  void (*pack_layers)(const PackLayers&);
  int64_t (*scratch_floats)(const Rollout&);
  void (*rollout)(const Rollout&, float* scratch);
};

namespace baseline { extern const RolloutKernels rollout; }
namespace x86_64_v3 { extern const RolloutKernels rollout; }
namespace x86_64_v4 { extern const RolloutKernels rollout; }

}  // namespace rearec
