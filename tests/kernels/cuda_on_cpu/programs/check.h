// What the programs share: a launch with a line number, and a list of cases to choose from by name.
#pragma once
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

template <class... Parameters, class... Arguments>
void launch(dim3 grid, dim3 block, size_t dynamic_bytes, void (*kernel)(Parameters...), Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = dynamic_bytes;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  if (error != cudaSuccess) std::printf("launch: %s\n", cudaGetErrorString(error));
}

struct Case {
  const char* name;
  bool (*right)();
};

// Runs the case of that name, or all cases; prints "name: right" or "name: wrong".
template <int kCount>
int run_cases(const Case (&cases)[kCount], int argument_count, char** arguments) {
  int wrong = 0, found = 0;
  for (const Case& one : cases) {
    if (argument_count > 1 && std::strcmp(arguments[1], one.name) != 0) continue;
    ++found;
    const bool right = one.right();
    std::printf("%s: %s\n", one.name, right ? "right" : "wrong");
    wrong += !right;
  }
  return found == 0 ? 2 : wrong != 0;
}
