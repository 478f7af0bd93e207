// How a warp reads and writes vectors of attention heads: 16 bytes a lane, as many vectors at a time as it has lanes for.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace rearec::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline void from_float(float x, float* to) { *to = x; }
__device__ inline void from_float(float x, __nv_bfloat16* to) { *to = __float2bfloat16(x); }
__device__ inline void from_float(float x, __half* to) { *to = __float2half(x); }

// How the head_dim <= kCapacity elements of a vector lie over lanes: kLanes lanes hold one vector, in kLoads loads of
// kWidth elements each (16 bytes together, or a single element where addresses allow no more).
template <class T, int kCapacity_, int kWidth_>
struct Layout {
  using Element = T;
  static constexpr int kCapacity = kCapacity_;
  static constexpr int kWidth = kWidth_;
  static constexpr int kLanes = kCapacity / kWidth < kWarp ? kCapacity / kWidth : kWarp;
  static constexpr int kVectors = kWarp / kLanes;  // held by a warp at a time
  static constexpr int kLoads = kCapacity / (kWidth * kLanes);
  static constexpr int kElements = kLoads * kWidth;  // of a lane
  static_assert(kWidth == 1 || kWidth * sizeof(T) == 16, "loads are 16 bytes or one element");
  static_assert((kLanes & (kLanes - 1)) == 0, "reductions go over powers of two");

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  // Which of the warp's vectors this lane holds a part of.
  __device__ static int vector() { return static_cast<int>(threadIdx.x) % kWarp / kLanes; }
  // The first element of the lane's load i.
  __device__ static int element(int i) { return (i * kLanes + lane()) * kWidth; }
};

// A lane's part of a vector as it lies in memory.
template <class L>
struct Packed {
  using T = typename L::Element;
  using Word = std::conditional_t<(L::kWidth > 1), uint4, T>;
  Word word[L::kLoads];

  // Zero where not `wanted` and beyond head_dim.
  __device__ void load(const T* p, int head_dim, bool wanted) {
#pragma unroll
    for (int i = 0; i < L::kLoads; ++i) {
      std::memset(&word[i], 0, sizeof(Word));
      if (wanted && L::element(i) < head_dim) word[i] = __ldg(reinterpret_cast<const Word*>(p + L::element(i)));
    }
  }
  __device__ void store(T* p, int head_dim) const {
#pragma unroll
    for (int i = 0; i < L::kLoads; ++i)
      if (L::element(i) < head_dim) *reinterpret_cast<Word*>(p + L::element(i)) = word[i];
  }
  __device__ void unpack(float (&x)[L::kElements]) const {
#pragma unroll
    for (int i = 0; i < L::kLoads; ++i) {
      T part[L::kWidth];
      std::memcpy(part, &word[i], sizeof(Word));
#pragma unroll
      for (int j = 0; j < L::kWidth; ++j) x[i * L::kWidth + j] = to_float(part[j]);
    }
  }
  __device__ void pack(const float (&x)[L::kElements]) {
#pragma unroll
    for (int i = 0; i < L::kLoads; ++i) {
      T part[L::kWidth];
#pragma unroll
      for (int j = 0; j < L::kWidth; ++j) from_float(x[i * L::kWidth + j], &part[j]);
      std::memcpy(&word[i], part, sizeof(Word));
    }
  }
};

// The same part in registers, as float32.
template <class L>
struct HeadVector {
  float x[L::kElements];

  __device__ void zero() {
#pragma unroll
    for (int e = 0; e < L::kElements; ++e) x[e] = 0;
  }
  __device__ void load(const typename L::Element* p, int head_dim, bool wanted) {
    Packed<L> packed;
    packed.load(p, head_dim, wanted);
    packed.unpack(x);
  }
  __device__ void store(typename L::Element* p, int head_dim) const {
    Packed<L> packed;
    packed.pack(x);
    packed.store(p, head_dim);
  }
  // The lane's share of a dot product.
  __device__ float dot(const HeadVector& other) const {
    float sum = 0;
#pragma unroll
    for (int e = 0; e < L::kElements; ++e) sum += x[e] * other.x[e];
    return sum;
  }
  __device__ void add(float scale, const HeadVector& other) {
#pragma unroll
    for (int e = 0; e < L::kElements; ++e) x[e] += scale * other.x[e];
  }
  __device__ void scale(float by) {
#pragma unroll
    for (int e = 0; e < L::kElements; ++e) x[e] *= by;
  }
};

// Sum over the lanes that hold one vector; every one of them gets it.
template <class L>
__device__ inline float sum_within_vector(float x) {
#pragma unroll
  for (int offset = L::kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

// Sum over the vectors of a warp, lane by lane.
template <class L>
__device__ inline float sum_over_vectors(float x) {
#pragma unroll
  for (int offset = L::kLanes; offset < kWarp; offset *= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

template <class L>
__device__ inline float max_over_vectors(float x) {
#pragma unroll
  for (int offset = L::kLanes; offset < kWarp; offset *= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

}  // namespace rearec::cuda
