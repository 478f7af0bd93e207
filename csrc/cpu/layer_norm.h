// LayerNorm over a residual sum, with dropout before and after it, on the CPU: one pass over the rows each way.
#pragma once
#include <cstdint>

#include "mask_rows.h"

namespace rearec {

// sum = dropped(x) + residual, out = dropped(normalised(sum) * weight + bias); rows x width, dense.
struct LayerNorm {
  const void* x;
  bool x_is_bfloat16;     // else float32; everything else is float32
  const float* residual;  // or null
  const float* weight;    // [width]
  const float* bias;      // [width]
  int64_t rows;
  int64_t width;
  float eps;
  float* statistics;  // [rows, 2]: mean and 1 / standard deviation; or null
  int threads;
};

// Element i of all elements in row-major order, with the rows numbered by mask_rows, is dropped if the 16 bits number i % 128 of block i / 128 are below the
// probability, in units of 2^-16: half (n / 16) % 2 of word n / 32 of Philox with the counter (low and high word of
// 16 * block + n % 16, stream, 0), where n = i % 128. Streams: 0 of x, 1 of the output.
struct ElementDropout {
  double x_probability;
  double output_probability;
  uint64_t seed;
  MaskRows mask_rows;
};

struct LayerNormForward {
  LayerNorm norm;
  ElementDropout dropout;
  float* out;
};

struct LayerNormBackward {
  LayerNorm norm;
  ElementDropout dropout;
  const float* grad_out;
  void* grad_x;          // of x's dtype, or null
  float* grad_residual;  // or null
  float* grad_parameters;  // [threads, 2, width] of scratch; the first holds the gradients of weight and bias
};

struct LayerNormKernels {
  void (*forward)(const LayerNormForward&);
  void (*backward)(const LayerNormBackward&);
};

namespace baseline { extern const LayerNormKernels layer_norm; }
namespace x86_64_v3 { extern const LayerNormKernels layer_norm; }
namespace x86_64_v4 { extern const LayerNormKernels layer_norm; }

}  // namespace rearec
