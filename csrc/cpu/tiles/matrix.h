// What the kernels by tiles read.
#pragma once
#include <cstdint>

namespace rearec::tiles {

struct Matrix {  // row-major
  const void* values;
  bool is_bfloat16;    // else float32
  int64_t row_stride;  // in elements
};

}  // namespace rearec::tiles
