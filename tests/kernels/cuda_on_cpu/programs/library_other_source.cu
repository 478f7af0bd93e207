// The other: the same kernel twice as wide, and the same one again, which the linker merges.
#include "library.h"

template __global__ void scale<64>(const float*, float*);

extern "C" void scale_96(const float* in, float* out) {
  cudaLaunchConfig_t config{};
  config.gridDim = 2;
  config.blockDim = 96;
  cudaLaunchKernelEx(&config, scale<96>, in, out);
}
