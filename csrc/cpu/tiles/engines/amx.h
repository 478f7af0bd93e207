// Products of strips in the eight tile registers of Intel AMX.
#pragma once
#include <immintrin.h>

#include "cpu/tiles/strips.h"

namespace rearec::tiles {
namespace {

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

// Registers 0 to 3 hold the sums of (row tile, column tile) (0, 0), (0, 1), (1, 0), (1, 1).
template <int kParts, bool kAdd, int kColumnTiles = 2>
REAREC_INLINE void multiply_strips(const bfloat16* first, const bfloat16* second, int64_t steps, float* sums) {
  tiles_read_memory();
  constexpr int64_t kRowBytes = 64;
  constexpr int64_t kSecond = kColumnTiles * kTileValues;  // of one part in a step
  constexpr bool kWide = kColumnTiles == 2;
  float* const below = sums + kColumnTiles * kSumsTile;
  if (kAdd) {
    _tile_loadd(0, sums, kRowBytes);
    _tile_loadd(2, below, kRowBytes);
    if (kWide) {
      _tile_loadd(1, sums + kSumsTile, kRowBytes);
      _tile_loadd(3, below + kSumsTile, kRowBytes);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; ++s, first += kStep<kParts>, second += kParts * kSecond) {
    if (kParts == 2) {
      _tile_loadd(4, first + 2 * kTileValues, kRowBytes);
      _tile_loadd(5, first + 3 * kTileValues, kRowBytes);
      _tile_loadd(6, second, kRowBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      if (kWide) {
        _tile_loadd(7, second + kTileValues, kRowBytes);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_loadd(4, first, kRowBytes);
      _tile_loadd(5, first + kTileValues, kRowBytes);
    } else {
      _tile_loadd(4, first, kRowBytes);
      _tile_loadd(6, second, kRowBytes);
      if (kWide) _tile_loadd(7, second + kTileValues, kRowBytes);
      _tile_loadd(5, first + kTileValues, kRowBytes);
    }
    _tile_dpbf16ps(0, 4, 6);
    if (kWide) _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    if (kWide) _tile_dpbf16ps(3, 5, 7);
    if (kParts == 2) {
      _tile_loadd(6, second + kSecond, kRowBytes);
      if (kWide) _tile_loadd(7, second + kSecond + kTileValues, kRowBytes);
      _tile_dpbf16ps(0, 4, 6);
      if (kWide) _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      if (kWide) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kRowBytes);
  _tile_stored(2, below, kRowBytes);
  if (kWide) {
    _tile_stored(1, sums + kSumsTile, kRowBytes);
    _tile_stored(3, below + kSumsTile, kRowBytes);
  }
}

}  // namespace
}  // namespace rearec::tiles
