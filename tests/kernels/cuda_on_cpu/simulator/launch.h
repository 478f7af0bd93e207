// A grid: its blocks one after the other, on fibers that live as long as the process.
#pragma once
#include <stdlib.h>

#include <mutex>

#include "execution.h"
#include "shared_memory.h"

namespace cuda_on_cpu {

inline Fiber fibers[kMaxThreads + 1];
inline unsigned fibers_created = 0;
inline std::mutex one_grid_at_a_time;

// Environment variable CUDA_ON_CPU_SEED: 0, the default, runs blocks, warps and lanes in order; any other number
// chooses another order.
CUDA_ON_CPU_UNSANITIZED inline void start_schedule() {
  const char* seed = getenv("CUDA_ON_CPU_SEED");
  block.seed = seed == nullptr ? 0 : strtoul(seed, nullptr, 10);
  block.schedule = block.seed == 0 ? 0 : block.seed * 0x9E3779B97F4A7C15u | 1;
}

// The thread sanitizer sees no race within one fiber. So that it sees those between blocks, the fibers of a block's
// threads change, and are one more than the threads.
CUDA_ON_CPU_UNSANITIZED inline void assign_fibers(uint64_t block_number) {
  const unsigned used = kThreadSanitizer ? block.size + 1 : block.size;
  for (; fibers_created < used; ++fibers_created) create_fiber(fibers[fibers_created], run_threads);
  const unsigned first = static_cast<unsigned>((block.schedule == 0 ? block_number : random_bits()) % used);
  for (unsigned thread = 0; thread < block.size; ++thread) {
    block.threads[thread].fiber = &fibers[first + thread < used ? first + thread : first + thread - used];
  }
}

CUDA_ON_CPU_UNSANITIZED inline void number_threads(const dim3& shape) {
  for (unsigned thread = 0; thread < block.size; ++thread) {
    block.threads[thread].index = {thread % shape.x, thread / shape.x % shape.y, thread / shape.x / shape.y};
  }
}

// Calls kernel(arguments) for every thread of a grid with at least one block.
CUDA_ON_CPU_UNSANITIZED inline void run_grid(dim3 grid, dim3 shape, size_t dynamic_bytes, void (*kernel)(const void*),
                                             const void* arguments) {
  const std::lock_guard<std::mutex> lock(one_grid_at_a_time);
  start_schedule();
  grid_shape = grid;
  block_shape = shape;
  block.size = shape.x * shape.y * shape.z;
  block.kernel = kernel;
  block.arguments = arguments;
  adopt_current_stack(block.host);
  number_threads(shape);
  const SharedMemory shared_memory(dynamic_bytes);

  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  const bool in_order = block.schedule == 0;
  const uint64_t first = in_order ? 0 : random_bits() % blocks;
  const bool backwards = !in_order && random_bits() % 2 != 0;
  for (uint64_t done = 0; done < blocks; ++done) {
    const uint64_t number = (first + (backwards ? blocks - done : done)) % blocks;
    block_index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                   static_cast<unsigned>(number / grid.x / grid.y)};
    assign_fibers(number);
    shared_memory.renew();
    run_block();
  }
  acquire(block.end);
}

}  // namespace cuda_on_cpu
