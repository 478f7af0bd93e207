// Kernels with one fault each, and what a correct one would have written.
#include "check.h"

// Shared memory without a barrier.
__global__ void reverse(int* out) {
  __shared__ int values[64];
  values[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = values[63 - threadIdx.x];
}

static bool missing_syncthreads() {
  int out[64];
  launch(1, 64, 0, reverse, out);
  for (int t = 0; t < 64; ++t) {
    if (out[t] != 63 - t) return false;
  }
  return true;
}

// One barrier in a loop that needs two: the next round overwrites what slow threads have not yet read.
template <class T>
__global__ void broadcast_rounds(T* out) {
  __shared__ T value;
  T sum = 0;
  for (unsigned round = 0; round < 8; ++round) {
    if (threadIdx.x == round * 7) value = static_cast<T>(round);
    __syncthreads();
    sum += value;
  }
  out[threadIdx.x] = sum;
}

static bool missing_second_syncthreads() {
  float out[64];
  launch(1, 64, 0, broadcast_rounds<float>, out);
  for (float x : out) {
    if (x != 28) return false;
  }
  return true;
}

// The shuffle keeps the lanes in step, but does not make one see what another wrote.
__global__ void swap_neighbours(int* memory, int* out) {
  memory[threadIdx.x] = threadIdx.x;
  __shfl_sync(0xffffffffu, 0, 0);
  __ballot_sync(0xffffffffu, 1);
  out[threadIdx.x] = memory[threadIdx.x ^ 1];
}

static bool missing_syncwarp() {
  int memory[32], out[32];
  launch(1, 32, 0, swap_neighbours, memory, out);
  for (int t = 0; t < 32; ++t) {
    if (out[t] != (t ^ 1)) return false;
  }
  return true;
}

// One half of the warp writes, the other reads; each calls __syncwarp, but for itself.
__global__ void copy_half(int* memory, int* out) {
  if (threadIdx.x < 16) {
    memory[threadIdx.x] = threadIdx.x;
    __syncwarp(0x0000ffffu);
  } else {
    __syncwarp(0xffff0000u);
    out[threadIdx.x - 16] = memory[threadIdx.x - 16];
  }
}

static bool syncwarp_of_others() {
  int memory[16] = {}, out[16];
  launch(1, 32, 0, copy_half, memory, out);
  for (int t = 0; t < 16; ++t) {
    if (out[t] != t) return false;
  }
  return true;
}

// As with the block's barrier: one __syncwarp in a loop that needs two.
__global__ void broadcast_rounds_in_warp(int* out) {
  __shared__ int value;
  int sum = 0;
  for (unsigned round = 0; round < 4; ++round) {
    if (threadIdx.x == round * 5) value = static_cast<int>(round);
    __syncwarp();
    sum += value;
  }
  out[threadIdx.x] = sum;
}

static bool missing_second_syncwarp() {
  int out[32];
  launch(1, 32, 0, broadcast_rounds_in_warp, out);
  for (int x : out) {
    if (x != 6) return false;
  }
  return true;
}

// Warp 0 appends a cell that all warps read back; or, with one block per head, block 0 appends what all blocks read.
__global__ void append_and_read(int* cells, int length, int* out) {
  if (blockIdx.x == 0 && threadIdx.x < 32) cells[length * 32 + threadIdx.x] = 100 + threadIdx.x;
  int sum = 0;
  for (int cell = 0; cell <= length; ++cell) sum += cells[cell * 32 + threadIdx.x % 32];
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

static bool appends_and_reads(int blocks, int warps) {
  std::vector<int> cells(5 * 32), out(blocks * warps * 32);
  launch(blocks, warps * 32, 0, append_and_read, cells.data(), 4, out.data());
  for (int i = 0; i < static_cast<int>(out.size()); ++i) {
    if (out[i] != 100 + i % 32) return false;
  }
  return true;
}

static bool append_read_by_other_warps() { return appends_and_reads(1, 2); }
static bool append_read_by_other_blocks() { return appends_and_reads(2, 1); }

// Blocks of one thread each write the same cell.
__global__ void write_cell(int* cell) { *cell = 1; }

static bool blocks_write_one_cell() {
  int cell = 0;
  launch(3, 1, 0, write_cell, &cell);
  return cell == 1;
}

// An atomic counter, read as if a barrier were behind it.
__global__ void count_and_read(int* counter, int* out) {
  atomicAdd(counter, 1);
  if (threadIdx.x == 0) out[0] = *counter;
}

static bool atomic_without_barrier() {
  int counter = 0, out = 0;
  launch(1, 64, 0, count_and_read, &counter, &out);
  return out == 64;
}

__global__ void write_up_to(float* out, int n) { out[threadIdx.x] = n; }

static bool global_out_of_bounds() {
  std::vector<float> out(63);
  launch(1, 64, 0, write_up_to, out.data(), 63);
  return true;
}

template <int kThreads>
__global__ void read_next(float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x + 1];
}

static bool shared_out_of_bounds() {
  float out[64];
  launch(1, 64, 0, read_next<64>, out);
  return out[63] == 1;
}

extern __shared__ float scratch[];
CUDA_ON_CPU_DYNAMIC_SHARED_MEMORY(float, scratch)

__global__ void read_next_dynamic(float* out) {
  scratch[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = scratch[threadIdx.x + 1];
}

static bool dynamic_shared_out_of_bounds() {
  float out[64];
  launch(1, 64, 64 * sizeof(float), read_next_dynamic, out);
  return out[63] == 1;
}

__global__ void load_four(const float* in, float* out) { out[0] = __ldg(reinterpret_cast<const float4*>(in + 1)).x; }

static bool misaligned_load() {
  alignas(16) float in[8] = {}, out = 1;
  launch(1, 1, 0, load_four, in, &out);
  return out == 0;
}

// Every thread but one writes its cell; blocks after the first must not find what the first left.
__global__ void write_all_but_one(float* out) {
  __shared__ float values[64];
  if (threadIdx.x != blockIdx.x) values[threadIdx.x] = 1;
  __syncthreads();
  float sum = 0;
  for (float x : values) sum += x;
  out[blockIdx.x * 64 + threadIdx.x] = sum - sum;
}

static bool uninitialised_shared() {
  float out[3 * 64];
  launch(3, 64, 0, write_all_but_one, out);
  for (float x : out) {
    if (isnan(x)) return false;
  }
  return true;
}

__device__ void descend(volatile int* depth) {
  volatile char frame[1000];
  frame[0] = static_cast<char>(++*depth);
  if (*depth < 300) descend(depth);
  frame[999] = frame[0];
}

__global__ void use_stack(volatile int* depth) {
  if (depth != nullptr) descend(depth);
}

// The first launch leaves 64 stacks of 256 KB, so that memory lies below the one that overflows by 44 KB.
static bool stack_overflow() {
  volatile int depth = 0;
  launch(1, 64, 0, use_stack, nullptr);
  launch(1, 1, 0, use_stack, &depth);
  return true;
}

// Threads that do not come to the same barrier or warp operation.
enum class Divergence {
  kReturnBeforeBarrier,
  kBarrierAfterReturn,
  kHalfWarpAtBarrier,
  kShuffleInBranch,
  kShuffleAgainstSyncwarp,
  kShuffleAfterReturn,
  kTwoMasks,
  kMaskWithoutCaller,
  kSourceNotInMask,
  kSourceDoesNotExist,
  kWidthNotAPower,
};

__global__ void diverge(Divergence kind, int* out) {
  const int t = threadIdx.x, lane = t % 32;
  const unsigned all = 0xffffffffu;
  int x = t;
  switch (kind) {
    case Divergence::kReturnBeforeBarrier:
      if (t != 40) __syncthreads();
      break;
    case Divergence::kBarrierAfterReturn:
      if (t < 32) return;
      __syncthreads();
      break;
    case Divergence::kHalfWarpAtBarrier:
      if (lane < 16) __syncthreads();
      x = __shfl_xor_sync(all, x, 1);
      __syncthreads();
      break;
    case Divergence::kShuffleInBranch:
      if (lane < 16) x = __shfl_xor_sync(all, x, 1);
      break;
    case Divergence::kShuffleAgainstSyncwarp:
      if (lane < 16) x = __shfl_xor_sync(all, x, 1);
      __syncwarp();
      break;
    case Divergence::kShuffleAfterReturn:
      if (lane == 0) return;
      for (int i = 0; i < 3; ++i) x += __shfl_down_sync(i == 0 ? 0xfffffffeu : all, x, 1);
      break;
    case Divergence::kTwoMasks:
      x = __shfl_xor_sync(lane < 16 ? 0x0001ffffu : 0xffff8000u, x, 1);
      break;
    case Divergence::kMaskWithoutCaller:
      x = __shfl_sync(0xfffffffeu, x, 1);
      break;
    case Divergence::kSourceNotInMask:
      if (lane < 4) x = __shfl_xor_sync(0x0000000fu, x, 4);
      break;
    case Divergence::kSourceDoesNotExist:
      x = __shfl_sync(all, x, 20);
      break;
    case Divergence::kWidthNotAPower:
      x = __shfl_sync(all, x, 0, 12);
      break;
  }
  out[t] = x;
}

template <Divergence kKind>
static bool diverges() {
  int out[48];
  launch(1, 48, 0, diverge, kKind, out);
  return true;
}

int main(int argument_count, char** arguments) {
  return run_cases({{"missing_syncthreads", missing_syncthreads},
                    {"missing_second_syncthreads", missing_second_syncthreads},
                    {"missing_syncwarp", missing_syncwarp},
                    {"syncwarp_of_others", syncwarp_of_others},
                    {"missing_second_syncwarp", missing_second_syncwarp},
                    {"append_read_by_other_warps", append_read_by_other_warps},
                    {"append_read_by_other_blocks", append_read_by_other_blocks},
                    {"blocks_write_one_cell", blocks_write_one_cell},
                    {"atomic_without_barrier", atomic_without_barrier},
                    {"global_out_of_bounds", global_out_of_bounds},
                    {"shared_out_of_bounds", shared_out_of_bounds},
                    {"dynamic_shared_out_of_bounds", dynamic_shared_out_of_bounds},
                    {"misaligned_load", misaligned_load},
                    {"uninitialised_shared", uninitialised_shared},
                    {"stack_overflow", stack_overflow},
                    {"return_before_barrier", diverges<Divergence::kReturnBeforeBarrier>},
                    {"barrier_after_return", diverges<Divergence::kBarrierAfterReturn>},
                    {"half_warp_at_barrier", diverges<Divergence::kHalfWarpAtBarrier>},
                    {"shuffle_in_branch", diverges<Divergence::kShuffleInBranch>},
                    {"shuffle_against_syncwarp", diverges<Divergence::kShuffleAgainstSyncwarp>},
                    {"shuffle_after_return", diverges<Divergence::kShuffleAfterReturn>},
                    {"two_masks", diverges<Divergence::kTwoMasks>},
                    {"mask_without_caller", diverges<Divergence::kMaskWithoutCaller>},
                    {"source_not_in_mask", diverges<Divergence::kSourceNotInMask>},
                    {"source_does_not_exist", diverges<Divergence::kSourceDoesNotExist>},
                    {"width_not_a_power", diverges<Divergence::kWidthNotAPower>}},
                   argument_count, arguments);
}
