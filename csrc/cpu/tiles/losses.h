// Softmax losses over a catalog on the CPU, by tiles of bfloat16: logits exist as blocks of 32 items and 32 rows in the
// cache only. Statistics and gradients as csrc/cpu/losses.h has them for chunks of logits.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cpu/tiles/matrix.h"

namespace rearec::tiles {

struct Gradient {  // float32, row-major; values null where it is not wanted
  float* values;
  int64_t row_stride;
};

struct SoftmaxOverItems {
  Matrix rows;   // [users * steps, width]
  Matrix table;  // [items, width]
  Gradient grad_rows;
  Gradient grad_table;
  int64_t users;
  int64_t steps;
  int64_t items;
  int64_t width;
  const int64_t* target;  // [users], ascending; -1 where it is not in this part of the catalog
  const int32_t* group;   // [items] or null: items in the group of a user's target, itself excepted, are left out
  bool two_parts;         // numbers in products: hi + lo instead of one bfloat16
  bool statistics;        // the passes to make; a gradient pass alone takes the statistics as given
  bool gradient;
  int threads;
};

struct CrossEntropy {
  SoftmaxOverItems softmax;
  void* scratch;
  const float* inverse_temperature;  // [steps]
  float* shift;                      // [users, steps]
  float* norm;
  float* target_logit;
  const float* coefficient;
};

struct Ensemble {
  SoftmaxOverItems softmax;
  void* scratch;
  float inverse_temperature;
  bool paper_form;
  float* shift;  // [users, steps + 1]
  float* norm;
  float* spread;        // [users, steps]
  float* target_logit;  // [users]
  float cross_entropy_coefficient;
  float kl_coefficient;
};

struct LossEngine {
  // Bytes that `scratch` must have, aligned to 64. The two losses need about the same, this is for both.
  size_t (*scratch_bytes)(const SoftmaxOverItems&);
  void (*cross_entropy)(const CrossEntropy&);
  void (*ensemble)(const Ensemble&);
};

namespace portable { extern const LossEngine losses; }
namespace avx512_bf16 { extern const LossEngine losses; }
namespace amx { extern const LossEngine losses; }

}  // namespace rearec::tiles
