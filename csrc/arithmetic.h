// Whole numbers, of blocks and of what is in them.
#pragma once
#include <cstdint>

namespace rearec {

// Internal linkage, as csrc/cpu/simd.h says why.
static constexpr int64_t ceil_divide(int64_t count, int64_t size) { return (count + size - 1) / size; }
static constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static constexpr int64_t round_up(int64_t count, int64_t size) { return ceil_divide(count, size) * size; }

}  // namespace rearec
