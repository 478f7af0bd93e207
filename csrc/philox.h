// Philox4x32-10 (Salmon et al., SC'11): the dropout stream that every backend shares.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define REAREC_HOST_DEVICE __host__ __device__
#else
#define REAREC_HOST_DEVICE
#endif

namespace rearec {

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxFactor0 = 0xD2511F53u, kPhiloxFactor1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;

// key = seed; counter = (key slot, query token, head, row): a mask depends on positions only, never on threads or tiles.
REAREC_HOST_DEVICE static inline uint32_t philox_word(uint64_t seed, uint32_t slot, uint32_t token, uint32_t head,
                                                      uint32_t row) {
  uint32_t c0 = slot, c1 = token, c2 = head, c3 = row;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = uint64_t{kPhiloxFactor0} * c0;
    const uint64_t p1 = uint64_t{kPhiloxFactor1} * c2;
    const uint32_t next0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t next2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = next0;
    c2 = next2;
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  return c0;
}

// Dropout with probability p drops the words below this. The smallest integer that is not less than p 2^32.
static inline uint32_t dropout_threshold(double p) {
  const double bound = p * 4294967296.0;
  if (bound >= 4294967295.0) return 0xffffffffu;
  const uint32_t floor = static_cast<uint32_t>(bound);
  return floor + (floor < bound);
}

}  // namespace rearec
