// Kernels without a fault: right, and silent, in every build and under every schedule.
#include "check.h"

// One block per row; threads, then warps, add up.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    sum_rows(const float* __restrict__ in, int columns, float* __restrict__ out) {
  __shared__ float of_warp[kThreads / 32];
  float sum = 0;
  for (int i = threadIdx.x; i < columns; i += kThreads) sum += __ldg(in + blockIdx.x * columns + i);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0;
    for (float x : of_warp) total += x;
    out[blockIdx.x] = total;
  }
}

template <int kThreads>
static bool sums_rows(int rows, int columns) {
  std::vector<float> in(rows * columns), out(rows, -1.0f);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i * 7 % 11);
  launch(rows, kThreads, 0, sum_rows<kThreads>, in.data(), columns, out.data());
  for (int r = 0; r < rows; ++r) {
    float sum = 0;
    for (int c = 0; c < columns; ++c) sum += in[r * columns + c];
    if (sum != out[r]) return false;
  }
  return true;
}

static bool block_reduction() { return sums_rows<32>(3, 5) && sums_rows<128>(20, 300) && sums_rows<1024>(2, 2000); }

// A tree in shared memory: a barrier after every level, and two before the memory is used again.
__global__ void sum_by_tree(const int* in, int rounds, int* out) {
  __shared__ int tree[256];
  int sum = 0;
  for (int round = 0; round < rounds; ++round) {
    tree[threadIdx.x] = in[threadIdx.x] + round;
    __syncthreads();
    for (unsigned half = 128; half > 0; half /= 2) {
      if (threadIdx.x < half) tree[threadIdx.x] += tree[threadIdx.x + half];
      __syncthreads();
    }
    sum += tree[0];
    __syncthreads();
  }
  out[blockIdx.x * 256 + threadIdx.x] = sum;
}

static bool barriers_in_loops() {
  std::vector<int> in(256), out(512);
  for (int i = 0; i < 256; ++i) in[i] = i;
  launch(2, 256, 0, sum_by_tree, in.data(), 5, out.data());
  for (int x : out) {
    if (x != 5 * 255 * 128 + 256 * 10) return false;
  }
  return true;
}

// Lanes exchange through memory, every half of a warp on its own and at its own pace.
__global__ void rotate_halves(int* memory, int* out) {
  const int lane = threadIdx.x, half = lane / 16;
  const unsigned mask = half == 0 ? 0x0000ffffu : 0xffff0000u;
  int value = lane;
  for (int round = 0; round < 3 + 2 * half; ++round) {
    memory[lane] = value;
    __syncwarp(mask);
    value = memory[half * 16 + (lane + 1) % 16];
    __syncwarp(mask);
  }
  __syncwarp();
  out[lane] = value;
}

static bool warp_barriers() {
  std::vector<int> memory(32), out(32);
  launch(1, 32, 0, rotate_halves, memory.data(), out.data());
  for (int lane = 0; lane < 32; ++lane) {
    const int half = lane / 16;
    if (out[lane] != half * 16 + (lane + 3 + 2 * half) % 16) return false;
  }
  return true;
}

// Each thread's index times a hundred, through every kind of shuffle.
__global__ void shuffle(int (*out)[48]) {
  const int t = threadIdx.x, value = t * 100;
  const unsigned all = 0xffffffffu;
  out[0][t] = __shfl_sync(all, value, 5);
  out[1][t] = __shfl_sync(all, value, 11, 8);
  out[2][t] = __shfl_up_sync(all, value, 3);
  out[3][t] = __shfl_up_sync(all, value, 3, 4);
  out[4][t] = t < 32 ? __shfl_down_sync(all, value, 3) : -1;
  out[5][t] = __shfl_down_sync(all, value, 3, 8);
  out[6][t] = __shfl_xor_sync(all, value, 9);
  out[7][t] = __shfl_xor_sync(all, value, 8, 8);
  out[8][t] = static_cast<int>(__shfl_sync(all, 1.5 * t, 2) * 2);
  out[9][t] = t % 32 % 3 == 0 ? __shfl_sync(0x49249249u, value, 6) : -1;
}

// 48 threads: the second warp has 16 lanes, and a full mask means those.
static bool shuffles() {
  int out[10][48];
  launch(1, 48, 0, shuffle, out);
  for (int t = 0; t < 48; ++t) {
    const int warp = t / 32 * 32, lane = t % 32;
    const int expected[10] = {
        warp + 5,
        t / 8 * 8 + 3,
        lane < 3 ? t : t - 3,
        t % 4 < 3 ? t : t - 3,
        lane < 29 ? t + 3 : t,
        t % 8 < 5 ? t + 3 : t,
        warp + (lane ^ 9),
        t % 16 < 8 ? t : t - 8,  // earlier segments can be read, later ones cannot
        warp + 2,
        warp + 6,
    };
    for (int kind = 0; kind < 10; ++kind) {
      const bool left_out = (kind == 4 && t >= 32) || (kind == 9 && lane % 3 != 0);
      const int want = left_out ? -1 : kind == 8 ? expected[kind] * 3 : expected[kind] * 100;
      if (out[kind][t] != want) return false;
    }
  }
  return true;
}

__global__ void vote(unsigned (*out)[48]) {
  const int t = threadIdx.x;
  const unsigned all = 0xffffffffu;
  out[0][t] = __ballot_sync(all, t % 3 == 0);
  out[1][t] = __any_sync(all, t == 40);
  out[2][t] = __all_sync(all, t < 32);
  out[3][t] = t % 2 == 0 ? __ballot_sync(0x55555555u, t % 4) : __ballot_sync(0xaaaaaaaau, t % 32 > 4);
  out[4][t] = __activemask() >> t % 32 & 1;
}

static bool votes() {
  unsigned out[5][48];
  launch(1, 48, 0, vote, out);
  for (int t = 0; t < 48; ++t) {
    unsigned thirds = 0, even = 0, odd = 0;
    const int first = t < 32 ? 0 : 32, lanes = t < 32 ? 32 : 16;
    for (int lane = 0; lane < lanes; ++lane) {
      thirds |= ((first + lane) % 3 == 0 ? 1u : 0u) << lane;
      even |= (lane % 4 == 2 ? 1u : 0u) << lane;
      odd |= (lane % 2 == 1 && lane > 4 ? 1u : 0u) << lane;
    }
    if (out[0][t] != thirds || out[1][t] != (t >= 32) || out[2][t] != (t < 32) ||
        out[3][t] != (t % 2 == 0 ? even : odd) || out[4][t] != 1) {
      return false;
    }
  }
  return true;
}

struct Counters {
  int sum, least, most, swapped;
  unsigned count;
  unsigned long long wide;
  float real;
  double twice;
};

__global__ void count(Counters* c) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&c->sum, i);
  atomicSub(&c->sum, 1);
  atomicMin(&c->least, i - 50);
  atomicMax(&c->most, i);
  atomicAdd(&c->count, 1);
  atomicAdd(&c->wide, 1ull << 33);
  atomicAdd(&c->real, 0.5f);
  atomicAdd(&c->twice, 0.25);
  for (int seen = 0;;) {
    const int before = atomicCAS(&c->swapped, seen, seen + 2);
    if (before == seen) break;
    seen = before;
  }
}

static bool atomics() {
  Counters c{};
  launch(4, 64, 0, count, &c);
  return c.sum == 256 * 255 / 2 - 256 && c.least == -50 && c.most == 255 && c.count == 256 && c.wide == 256ull << 33 &&
         c.real == 128 && c.twice == 64 && c.swapped == 512;
}

__global__ void number(int* out) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int size = blockDim.x * blockDim.y * blockDim.z;
  out[block * size + thread] += block * 1000 + thread * 32 + __shfl_sync(0xffffffffu, thread, 1, 2) % 32;
}

static bool indices_in_three_dimensions() {
  const int size = 4 * 3 * 6;
  std::vector<int> out(3 * 2 * 5 * size);
  launch(dim3(3, 2, 5), dim3(4, 3, 6), 0, number, out.data());
  for (int i = 0; i < static_cast<int>(out.size()); ++i) {
    const int thread = i % size;
    if (out[i] != i / size * 1000 + thread * 32 + (thread | 1) % 32) return false;
  }
  return true;
}

__global__ void mathematics(float* out) {
  out[0] = max(2, 3u) + min(-1.5f, 2.0f) + fmaxf(NAN, 1.0f) + max(1.0f, NAN);
  out[1] = __expf(0.0f) + exp2f(3.0f) + __logf(1.0f) + rsqrtf(4.0f) + __fdividef(1.0f, 4.0f) + abs(-2) + fabsf(-1.0f);
  out[2] = __popc(0xf0u) + __ffs(8) + __clz(1) + __umulhi(0x80000000u, 6u) + __float2int_rn(2.5f) + __fmaf_rn(2, 3, 4);
  out[3] = __uint_as_float(__float_as_uint(1.5f) + (1u << 21)) + __int_as_float(__float_as_int(2.0f));
  const float4 four = make_float4(1, 2, 3, 4);
  __stcs(reinterpret_cast<float4*>(out + 4), __ldcs(&four));
}

static bool functions() {
  alignas(16) float out[8];
  launch(1, 1, 0, mathematics, out);
  return out[0] == 3 - 1.5f + 1 + 1 && out[1] == 1 + 8 + 0 + 0.5f + 0.25f + 2 + 1 &&
         out[2] == 4 + 4 + 31 + 3 + 2 + 10 && out[3] == 1.75f + 2 && out[4] == 1 && out[7] == 4;
}

int main(int argument_count, char** arguments) {
  return run_cases({{"block_reduction", block_reduction},
                    {"barriers_in_loops", barriers_in_loops},
                    {"warp_barriers", warp_barriers},
                    {"shuffles", shuffles},
                    {"votes", votes},
                    {"atomics", atomics},
                    {"indices_in_three_dimensions", indices_in_three_dimensions},
                    {"functions", functions}},
                   argument_count, arguments);
}
