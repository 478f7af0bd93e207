// Products of bfloat16 matrices with float32 sums in the eight tile registers (Intel AMX).
//
// A tile is 16 rows of 64 bytes. Of a product's operands the first lies row by row, 32 values deep; of the second, 16
// columns and 32 deep, each pair of consecutive depths lies together: value (depth, column) at
// [depth / 2][column][depth % 2]. Such a tile is 1 KiB, and tiles of one column block follow each other in depth.
//
// Everything here lives in an unnamed namespace, as csrc/cpu/simd.h says why.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/simd.h"

namespace rearec::tiles {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileDepth = 32;                       // bfloat16 values
constexpr int kTileValues = kTileRows * kTileDepth;  // of a tile of bfloat16
constexpr int kBlock = 2 * kTileRows;                // rows and columns of a block of four tiles of sums

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
    // Not _tile_loadconfig: GCC's takes the first 8 bytes for all that is read, and may leave out the stores of the rest.
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Before tiles are loaded: GCC does not know that they read memory, and might move stores past them.
REAREC_INLINE void tiles_read_memory() { asm volatile("" ::: "memory"); }

}  // namespace
}  // namespace rearec::tiles
