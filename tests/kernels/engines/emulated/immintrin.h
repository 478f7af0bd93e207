// AVX-512 with products of bfloat16, and with EMULATE_AMX the tile registers, on a processor without: SIMDe computes most
// instructions, and what its older releases lack stands below, as Intel's manuals describe it. Found before the compiler's
// own header; the macros that say what the processor has come last, so that they reach only the sources of csrc.
#pragma once
#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cstdint>
#include <cstring>

namespace emulated {

template <class Vector, class T>
struct Lanes {
  static constexpr int kCount = sizeof(Vector) / sizeof(T);
  T x[kCount];
  Lanes() = default;
  explicit Lanes(const Vector& v) { std::memcpy(x, &v, sizeof x); }
  Vector vector() const {
    Vector v;
    std::memcpy(&v, x, sizeof x);
    return v;
  }
};

template <class Vector, class T>
inline Vector load_masked(unsigned mask, const void* from) {
  Lanes<Vector, T> lanes = {};
  for (int i = 0; i < lanes.kCount; ++i)
    if (mask >> i & 1) std::memcpy(&lanes.x[i], static_cast<const char*>(from) + i * sizeof(T), sizeof(T));
  return lanes.vector();
}

inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40);
  if ((bits & 0x7f800000) == 0) return static_cast<uint16_t>(bits >> 16 & 0x8000);  // denormals are zeros
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline simde__m512i cvtne2ps_pbh(simde__m512 high, simde__m512 low) {
  const Lanes<simde__m512, float> a(low), b(high);
  Lanes<simde__m512i, uint16_t> result;
  for (int i = 0; i < 16; ++i) result.x[i] = to_bfloat16(a.x[i]), result.x[16 + i] = to_bfloat16(b.x[i]);
  return result.vector();
}
inline simde__m512i cvtepu16_epi32(simde__m256i from) {
  const Lanes<simde__m256i, uint16_t> a(from);
  Lanes<simde__m512i, uint32_t> result;
  for (int i = 0; i < 16; ++i) result.x[i] = a.x[i];
  return result.vector();
}
inline unsigned short cmp_ps_mask(unsigned short among, simde__m512 left, simde__m512 right, int how) {
  const Lanes<simde__m512, float> a(left), b(right);
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i)
    mask |= static_cast<unsigned>(how == _CMP_GT_OQ ? a.x[i] > b.x[i] : a.x[i] >= b.x[i]) << i;
  return static_cast<unsigned short>(mask & among);
}
inline float reduce_add_ps(simde__m512 from) {
  Lanes<simde__m512, float> a(from);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.x[i] += a.x[i + half];
  return a.x[0];
}
inline float reduce_max_ps(simde__m512 from) {
  Lanes<simde__m512, float> a(from);
  for (float x : a.x) a.x[0] = x > a.x[0] ? x : a.x[0];
  return a.x[0];
}

}  // namespace emulated

#undef _mm512_maskz_loadu_ps
#undef _mm256_maskz_loadu_epi16
#undef _mm512_maskz_loadu_epi64
#undef _mm512_cvtne2ps_pbh
#undef _mm512_cvtepu16_epi32
#undef _mm512_cmp_ps_mask
#undef _mm512_mask_cmp_ps_mask
#undef _mm512_reduce_add_ps
#undef _mm512_reduce_max_ps
#undef _mm512_stream_ps
#define _mm512_maskz_loadu_ps(mask, p) emulated::load_masked<simde__m512, float>(mask, p)
#define _mm256_maskz_loadu_epi16(mask, p) emulated::load_masked<simde__m256i, uint16_t>(mask, p)
#define _mm512_maskz_loadu_epi64(mask, p) emulated::load_masked<simde__m512i, uint64_t>(mask, p)
#define _mm512_cvtne2ps_pbh(high, low) emulated::cvtne2ps_pbh(high, low)
#define _mm512_cvtepu16_epi32(x) emulated::cvtepu16_epi32(x)
#define _mm512_cmp_ps_mask(a, b, how) emulated::cmp_ps_mask(0xffff, a, b, how)
#define _mm512_mask_cmp_ps_mask(among, a, b, how) emulated::cmp_ps_mask(among, a, b, how)
#define _mm512_reduce_add_ps(x) emulated::reduce_add_ps(x)
#define _mm512_reduce_max_ps(x) emulated::reduce_max_ps(x)
#define _mm512_stream_ps(p, x) simde_mm512_store_ps(p, x)

#if defined(EMULATE_AMX)
namespace emulated {

struct Tile {
  unsigned char bytes[16][64];
};
inline Tile& tile(int number) {
  static thread_local Tile tiles[8];
  return tiles[number];
}
inline void load_tile(int to, const void* from, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(tile(to).bytes[i], static_cast<const char*>(from) + i * stride, 64);
}
inline void store_tile(int from, void* to, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(to) + i * stride, tile(from).bytes[i], 64);
}
inline float of_bfloat16(const unsigned char* from) {
  uint16_t half;
  std::memcpy(&half, from, 2);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline void add_tile_product(int to, int first, int second) {
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) {
      float sums[2] = {0, 0}, total;
      for (int pair = 0; pair < 16; ++pair)
        for (int half = 0; half < 2; ++half)
          sums[half] = __builtin_fmaf(of_bfloat16(tile(first).bytes[row] + 4 * pair + 2 * half),
                                      of_bfloat16(tile(second).bytes[pair] + 4 * column + 2 * half), sums[half]);
      std::memcpy(&total, tile(to).bytes[row] + 4 * column, 4);
      total += sums[0] + sums[1];
      std::memcpy(tile(to).bytes[row] + 4 * column, &total, 4);
    }
}

}  // namespace emulated

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_release
#define _tile_loadd(to, from, stride) emulated::load_tile(to, from, stride)
#define _tile_stored(from, to, stride) emulated::store_tile(from, to, stride)
#define _tile_zero(to) static_cast<void>(emulated::tile(to) = emulated::Tile{})
#define _tile_dpbf16ps(to, first, second) emulated::add_tile_product(to, first, second)
#define _tile_release() static_cast<void>(0)
#define __AMX_BF16__ 1
#endif

#define __AVX512F__ 1
#define __AVX512BF16__ 1
