// CUDA's qualifiers and small vectors, with CUDA's alignments.
#pragma once

#define CUDA_ON_CPU 1

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

#define CUDA_ON_CPU_VECTORS(type, name, align2, align4)                                                  \
  struct alignas(align2) name##2 {                                                                       \
    type x, y;                                                                                           \
  };                                                                                                     \
  struct name##3 {                                                                                       \
    type x, y, z;                                                                                        \
  };                                                                                                     \
  struct alignas(align4) name##4 {                                                                       \
    type x, y, z, w;                                                                                     \
  };                                                                                                     \
  inline constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }                             \
  inline constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                  \
  inline constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

CUDA_ON_CPU_VECTORS(signed char, char, 2, 4)
CUDA_ON_CPU_VECTORS(unsigned char, uchar, 2, 4)
CUDA_ON_CPU_VECTORS(short, short, 4, 8)
CUDA_ON_CPU_VECTORS(unsigned short, ushort, 4, 8)
CUDA_ON_CPU_VECTORS(int, int, 8, 16)
CUDA_ON_CPU_VECTORS(unsigned, uint, 8, 16)
CUDA_ON_CPU_VECTORS(long long, longlong, 16, 16)
CUDA_ON_CPU_VECTORS(unsigned long long, ulonglong, 16, 16)
CUDA_ON_CPU_VECTORS(float, float, 8, 16)
CUDA_ON_CPU_VECTORS(double, double, 16, 16)
#undef CUDA_ON_CPU_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 sizes) : x(sizes.x), y(sizes.y), z(sizes.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
