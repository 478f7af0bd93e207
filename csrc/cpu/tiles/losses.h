// Softmax losses over a catalog on the CPU, by tiles of bfloat16: logits exist as blocks of 32 items and 32 users in the
// cache only.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cpu/losses.h"
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
  Users users;
  int64_t items;
  int64_t width;
  const int32_t* group;  // [items] or null: items in the group of a user's target, itself excepted, are left out
  bool two_parts;        // numbers in products: hi + lo instead of one bfloat16
  bool statistics;       // the passes to make; a gradient pass alone takes the statistics as given
  bool gradient;
  int threads;
};

template <class Loss>
struct OfSweep {
  SoftmaxOverItems softmax;  // with targets in ascending order
  void* scratch;
  Loss loss;
};

struct LossEngine {
  // Bytes that `scratch` must have, aligned to 64. The two losses need about the same, this is for both.
  size_t (*scratch_bytes)(const SoftmaxOverItems&);
  void (*cross_entropy)(const OfSweep<CrossEntropy>&);
  void (*ensemble)(const OfSweep<Ensemble>&);
};

namespace portable { extern const LossEngine losses; }
namespace avx512_bf16 { extern const LossEngine losses; }
namespace amx { extern const LossEngine losses; }
namespace neon_bf16 { extern const LossEngine losses; }

}  // namespace rearec::tiles
