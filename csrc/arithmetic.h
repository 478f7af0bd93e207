// Whole numbers of blocks.
#pragma once
#include <cstdint>

namespace rearec {

// Internal linkage, as csrc/cpu/simd.h says why.
static constexpr int64_t ceil_divide(int64_t count, int64_t size) { return (count + size - 1) / size; }
static constexpr int64_t round_up(int64_t count, int64_t size) { return ceil_divide(count, size) * size; }

}  // namespace rearec
