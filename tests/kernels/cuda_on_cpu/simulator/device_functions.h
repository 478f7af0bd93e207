// What kernels call: barriers, warp operations, atomics, loads and stores with cache hints, bits.
#pragma once
#include <limits.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "execution.h"

inline const uint3& threadIdx = cuda_on_cpu::thread_index;
inline const uint3& blockIdx = cuda_on_cpu::block_index;
inline const dim3& blockDim = cuda_on_cpu::block_shape;
inline const dim3& gridDim = cuda_on_cpu::grid_shape;
inline constexpr int warpSize = 32;

inline void __syncthreads() { cuda_on_cpu::block_barrier(); }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_on_cpu::meet(cuda_on_cpu::Operation::kSyncwarp, mask, 0, 0);
}

// Only the caller: hardware may run the lanes of a warp apart at any time, and no program may count on more.
inline unsigned __activemask() { return 1u << cuda_on_cpu::block.current % 32; }

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return static_cast<unsigned>(cuda_on_cpu::meet(cuda_on_cpu::Operation::kBallot, mask, predicate != 0, 0));
}

inline int __any_sync(unsigned mask, int predicate) {
  return cuda_on_cpu::meet(cuda_on_cpu::Operation::kAny, mask, predicate != 0, 0) != 0;
}

inline int __all_sync(unsigned mask, int predicate) {
  return cuda_on_cpu::meet(cuda_on_cpu::Operation::kAll, mask, predicate == 0, 0) == 0;
}

namespace cuda_on_cpu {

// The lane number and the first lane of its segment of `width` lanes.
struct Segment {
  int lane, begin, width;
};

inline Segment segment_of_caller(int width) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fail("shuffle: the width %d is not 1, 2, 4, 8, 16 or 32", width);
  }
  const int lane = static_cast<int>(block.current % kWarpLanes);
  return {lane, lane & ~(width - 1), width};
}

template <typename T>
T shuffle(Operation operation, unsigned mask, T value, int source) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "CUDA shuffles up to 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = meet(operation, mask, bits, static_cast<unsigned>(source));
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace cuda_on_cpu

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const auto segment = cuda_on_cpu::segment_of_caller(width);
  return cuda_on_cpu::shuffle(cuda_on_cpu::Operation::kShuffle, mask, value, segment.begin | (source & (width - 1)));
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const auto segment = cuda_on_cpu::segment_of_caller(width);
  const bool inside = delta <= static_cast<unsigned>(segment.lane - segment.begin);
  return cuda_on_cpu::shuffle(cuda_on_cpu::Operation::kShuffleUp, mask, value,
                              inside ? segment.lane - static_cast<int>(delta) : segment.lane);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const auto segment = cuda_on_cpu::segment_of_caller(width);
  const bool inside = delta < static_cast<unsigned>(segment.begin + width - segment.lane);
  return cuda_on_cpu::shuffle(cuda_on_cpu::Operation::kShuffleDown, mask, value,
                              inside ? segment.lane + static_cast<int>(delta) : segment.lane);
}

// Lanes of earlier segments can be read, those of later ones cannot: as CUDA has it.
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const auto segment = cuda_on_cpu::segment_of_caller(width);
  const int source = (segment.lane ^ bits) & 31;
  return cuda_on_cpu::shuffle(cuda_on_cpu::Operation::kShuffleXor, mask, value,
                              source < segment.begin + width ? source : segment.lane);
}

// Atomics are relaxed, as CUDA's: they do not order other memory.
namespace cuda_on_cpu {

template <typename T>
struct Identity {
  using type = T;
};

// A parameter of this type takes no part in deducing T: atomicAdd(&unsigned_counter, 1) is well-formed.
template <typename T>
using Given = typename Identity<T>::type;

template <typename T, typename Change>
T atomic_update(T* address, Change change) {
  T before;
  __atomic_load(address, &before, __ATOMIC_RELAXED);
  for (;;) {
    T after = change(before);
    if (__atomic_compare_exchange(address, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return before;
  }
}

}  // namespace cuda_on_cpu

template <typename T>
T atomicAdd(T* address, cuda_on_cpu::Given<T> value) {
  return cuda_on_cpu::atomic_update(address, [value](T before) { return static_cast<T>(before + value); });
}

template <typename T>
T atomicSub(T* address, cuda_on_cpu::Given<T> value) {
  return cuda_on_cpu::atomic_update(address, [value](T before) { return static_cast<T>(before - value); });
}

template <typename T>
T atomicMax(T* address, cuda_on_cpu::Given<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA's atomicMax takes integers");
  return cuda_on_cpu::atomic_update(address, [value](T before) { return before < value ? value : before; });
}

template <typename T>
T atomicMin(T* address, cuda_on_cpu::Given<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA's atomicMin takes integers");
  return cuda_on_cpu::atomic_update(address, [value](T before) { return value < before ? value : before; });
}

template <typename T>
T atomicExch(T* address, cuda_on_cpu::Given<T> value) {
  return cuda_on_cpu::atomic_update(address, [value](T) { return value; });
}

template <typename T>
T atomicCAS(T* address, cuda_on_cpu::Given<T> compare, cuda_on_cpu::Given<T> value) {
  static_assert(std::is_integral_v<T>, "CUDA's atomicCAS takes integers");
  return cuda_on_cpu::atomic_update(address, [=](T before) { return before == compare ? value : before; });
}

// Cache hints.
template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldca(const T* address) {
  return *address;
}
template <typename T>
T __ldcg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcg(T* address, cuda_on_cpu::Given<T> value) {
  *address = value;
}
template <typename T>
void __stcs(T* address, cuda_on_cpu::Given<T> value) {
  *address = value;
}

// Bits.
namespace cuda_on_cpu {

template <typename To, typename From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace cuda_on_cpu

inline int __float_as_int(float x) { return cuda_on_cpu::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_on_cpu::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return cuda_on_cpu::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_on_cpu::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_on_cpu::bit_cast<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }

[[noreturn]] inline void __trap() { cuda_on_cpu::fail("__trap"); }
