// One of two sources of a library. FACTOR differs between libraries that otherwise have the same names.
#include "library.h"

template __global__ void scale<64>(const float*, float*);

extern "C" void scale_64(const float* in, float* out) {
  cudaLaunchConfig_t config{};
  config.gridDim = 3;
  config.blockDim = 64;
  cudaLaunchKernelEx(&config, scale<64>, in, out);
}
