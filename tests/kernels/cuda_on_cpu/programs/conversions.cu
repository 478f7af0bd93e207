// conversions IN OUT: reads float32 numbers; writes their bfloat16 and their half bits, then all 65536 bfloat16 and all
// 65536 half numbers as float32.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "check.h"

using Bits = unsigned short;

// Every function that narrows; all must agree.
__global__ void narrow(const float* in, int n, Bits* bfloat, Bits* half_precision, int* disagreements) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float x = in[i];
  const float2 pair = make_float2(x, -x);
  bfloat[i] = __bfloat16_as_ushort(__float2bfloat16(x));
  half_precision[i] = __half_as_ushort(__float2half(x));
  const __nv_bfloat162 b1 = __float22bfloat162_rn(pair), b2 = __floats2bfloat162_rn(x, -x);
  const __half2 h1 = __float22half2_rn(pair), h2 = __floats2half2_rn(x, -x);
  const Bits b = bfloat[i], h = half_precision[i], sign = isnan(x) ? 0 : 0x8000;
  const bool same = __bfloat16_as_ushort(__float2bfloat16_rn(x)) == b && __bfloat16_as_ushort(b1.x) == b &&
                    __bfloat16_as_ushort(b1.y) == (b ^ sign) && __bfloat16_as_ushort(b2.x) == b &&
                    __bfloat16_as_ushort(b2.y) == (b ^ sign) && __half_as_ushort(__float2half_rn(x)) == h &&
                    __half_as_ushort(h1.x) == h && __half_as_ushort(h1.y) == (h ^ sign) &&
                    __half_as_ushort(h2.x) == h && __half_as_ushort(h2.y) == (h ^ sign);
  if (!same) atomicAdd(disagreements, 1);
}

__global__ void widen(float* bfloat, float* half_precision, int* disagreements) {
  const unsigned bits = blockIdx.x * blockDim.x + threadIdx.x;
  const __nv_bfloat16 b = __ushort_as_bfloat16(static_cast<Bits>(bits));
  const __half h = __ushort_as_half(static_cast<Bits>(bits));
  bfloat[bits] = __bfloat162float(b);
  half_precision[bits] = __half2float(h);
  const float2 b2 = __bfloat1622float2(__halves2bfloat162(b, b)), h2 = __half22float2(__halves2half2(h, h));
  const unsigned expected_b = __float_as_uint(bfloat[bits]), expected_h = __float_as_uint(half_precision[bits]);
  const bool same = __float_as_uint(b2.x) == expected_b && __float_as_uint(b2.y) == expected_b &&
                    __float_as_uint(h2.x) == expected_h && __float_as_uint(h2.y) == expected_h;
  if (!same) atomicAdd(disagreements, 1);
}

template <class T>
static bool write(const std::vector<T>& values, std::FILE* file) {
  return std::fwrite(values.data(), sizeof(T), values.size(), file) == values.size();
}

int main(int argument_count, char** arguments) {
  if (argument_count != 3) return 2;
  std::vector<float> in(1 << 20);
  std::FILE* file = std::fopen(arguments[1], "rb");
  if (file == nullptr) return 2;
  in.resize(std::fread(in.data(), sizeof(float), in.size(), file));
  std::fclose(file);

  std::vector<Bits> bfloat(in.size()), half_precision(in.size());
  std::vector<float> wide_bfloat(65536), wide_half(65536);
  int disagreements = 0;
  const int n = static_cast<int>(in.size());
  launch((n + 255) / 256, 256, 0, narrow, in.data(), n, bfloat.data(), half_precision.data(), &disagreements);
  launch(256, 256, 0, widen, wide_bfloat.data(), wide_half.data(), &disagreements);

  file = std::fopen(arguments[2], "wb");
  if (file == nullptr) return 2;
  const bool written =
      write(bfloat, file) && write(half_precision, file) && write(wide_bfloat, file) && write(wide_half, file);
  return std::fclose(file) != 0 || !written || disagreements != 0;
}
