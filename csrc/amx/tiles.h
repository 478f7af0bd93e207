// Products of bfloat16 matrices with float32 sums in the eight tile registers (Intel AMX).
//
// A tile is 16 rows of 64 bytes. Of a product's operands the first lies row by row, 32 values deep; of the second, 16
// columns and 32 deep, each pair of consecutive depths lies together: value (depth, column) at [depth / 2][column][depth %
// 2]. Such a tile of the second operand is 1 KiB, and tiles of one column block follow each other in depth.
//
// Everything here lives in an unnamed namespace, as csrc/cpu/simd.h says why.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/simd.h"

namespace rearec::amx {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileDepth = 32;                          // bfloat16 values
constexpr int kTileValues = kTileRows * kTileDepth;     // of a tile of bfloat16
constexpr int kBlock = 2 * kTileRows;                   // rows and columns of a block of four tiles of sums

// The calling thread's tiles, all of full size, for as long as this lives.
class Tiles {
 public:
  Tiles() {
    struct {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } config;
    std::memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = 64;
      config.rows[i] = kTileRows;
    }
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// sums[32][32] (row stride in values) = first [32, 32 * tiles deep] (row stride in bytes) times two column blocks of the
// second operand, which begin `second_stride` values apart.
REAREC_INLINE void multiply_block(const bfloat16* first, int64_t first_stride, const bfloat16* second,
                                  int64_t second_stride, int64_t tiles, float* sums, int64_t sums_stride) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const char* top = reinterpret_cast<const char*>(first);
  const char* bottom = top + kTileRows * first_stride;
  for (int64_t t = 0; t < tiles; ++t) {
    _tile_loadd(4, top + 64 * t, first_stride);
    _tile_loadd(5, bottom + 64 * t, first_stride);
    _tile_loadd(6, second + kTileValues * t, 64);
    _tile_loadd(7, second + second_stride + kTileValues * t, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  const int64_t bytes = 4 * sums_stride;
  _tile_stored(0, sums, bytes);
  _tile_stored(1, sums + kTileRows, bytes);
  _tile_stored(2, sums + kTileRows * sums_stride, bytes);
  _tile_stored(3, sums + kTileRows * sums_stride + kTileRows, bytes);
}

}  // namespace
}  // namespace rearec::amx
