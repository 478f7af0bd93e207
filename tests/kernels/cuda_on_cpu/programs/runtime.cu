// The host's side: launches and their errors, arguments, dynamic shared memory, grids of several host threads.
#include <thread>

#include "check.h"

__global__ void reverse(const int* in, int* out) {
  extern __shared__ int scratch[];
  scratch[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = scratch[blockDim.x - 1 - threadIdx.x];
}

extern __shared__ int scratch[];
CUDA_ON_CPU_DYNAMIC_SHARED_MEMORY(int, scratch)

// The second launch reads what other threads of the first wrote.
static bool dynamic_shared_memory() {
  std::vector<int> in(300), middle(300), out(300);
  for (int i = 0; i < 300; ++i) in[i] = i;
  launch(3, 100, 400, reverse, in.data(), middle.data());
  launch(5, 60, 240, reverse, middle.data(), out.data());
  for (int i = 0; i < 300; ++i) {
    const int position = i / 60 * 60 + 59 - i % 60;
    if (out[i] != position / 100 * 100 + 99 - position % 100) return false;
  }
  return true;
}

__global__ void nothing() {}

static cudaError_t error_of(dim3 grid, dim3 block, size_t dynamic_bytes, unsigned attributes = 0) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = dynamic_bytes;
  config.numAttrs = attributes;
  const cudaError_t error = cudaLaunchKernelEx(&config, nothing);
  const bool kept = cudaPeekAtLastError() == error && cudaGetLastError() == error && cudaGetLastError() == cudaSuccess;
  return kept ? error : static_cast<cudaError_t>(-1);
}

static bool launch_errors() {
  const cudaError_t bad = cudaErrorInvalidConfiguration;
  bool right = error_of(0, 1, 0) == bad && error_of(dim3(1, 0), 1, 0) == bad && error_of(1, 0, 0) == bad;
  right &= error_of(1, 1024, 0) == cudaSuccess && error_of(1, 1025, 0) == bad && error_of(1, dim3(32, 33), 0) == bad;
  right &= error_of(1, dim3(1, 1, 64), 0) == cudaSuccess && error_of(1, dim3(1, 1, 65), 0) == bad;
  right &= error_of(70000, 1, 0) == cudaSuccess && error_of(0x80000000u, 1, 0) == bad;
  right &= error_of(dim3(1, 65536), 1, 0) == bad && error_of(dim3(1, 1, 65536), 1, 0) == bad;
  right &= error_of(1, 1, 48 << 10) == cudaSuccess && error_of(1, 1, (48 << 10) + 1) == cudaErrorInvalidValue;
  right &= error_of(1, 1, 0, 1) == cudaErrorNotSupported;
  // More than 48 KB must be asked for, and nobody has more than 227.
  const auto limit = cudaFuncAttributeMaxDynamicSharedMemorySize;
  right &= cudaFuncSetAttribute(nothing, limit, 227 << 10) == cudaSuccess;
  right &= error_of(1, 1, 227 << 10) == cudaSuccess && error_of(1, 1, (227 << 10) + 1) == cudaErrorInvalidValue;
  right &= cudaFuncSetAttribute(nothing, limit, (227 << 10) + 1) == cudaErrorInvalidValue;
  right &= cudaGetLastError() == cudaErrorInvalidValue;
  return right && std::strcmp(cudaGetErrorName(bad), "cudaErrorInvalidConfiguration") == 0 &&
         std::strcmp(cudaGetErrorString(bad), "invalid configuration argument") == 0;
}

static bool device_and_stream() {
  int devices = 0, device = -1, processors = 0;
  cudaStream_t stream = nullptr;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusActive;
  bool right = cudaGetDeviceCount(&devices) == cudaSuccess && cudaGetDevice(&device) == cudaSuccess;
  right &= devices == 1 && device == 0 && cudaSetDevice(0) == cudaSuccess && cudaSetDevice(1) == cudaErrorInvalidDevice;
  right &= cudaGetLastError() == cudaErrorInvalidDevice;
  right &= cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess && processors > 0;
  right &= cudaStreamIsCapturing(stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusNone;
  return right && cudaStreamSynchronize(stream) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess;
}

struct Shape {
  int rows, columns;
};

__global__ void change_arguments(Shape shape, float factor, float* out) {
  shape.rows += threadIdx.x;
  factor *= shape.columns;
  __syncthreads();
  out[threadIdx.x] = shape.rows * factor;
}

static bool arguments_are_copies() {
  float out[40];
  launch(1, 40, 0, change_arguments, Shape{3, 2}, 5, out);  // 5 becomes a float
  for (int i = 0; i < 40; ++i) {
    if (out[i] != (3 + i) * 10) return false;
  }
  return true;
}

template <int kThreads>
__global__ void prefix_sums(int start, int* out) {
  __shared__ int sums[kThreads];
  int sum = start + threadIdx.x;
  for (int step = 1; step < kThreads; step *= 2) {
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) >= step) sum += sums[threadIdx.x - step];
    __syncthreads();
  }
  out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

// Thread-local variables of the host survive the shared memory beside them.
static thread_local int of_this_host_thread = 7;

static bool host_threads() {
  std::vector<int> out[3];
  bool kept[3] = {};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([t, &out, &kept] {
      out[t].resize(2 * 96);
      of_this_host_thread += t;
      for (int repeat = 0; repeat < 5; ++repeat) launch(2, 96, 0, prefix_sums<96>, t, out[t].data());
      kept[t] = of_this_host_thread == 7 + t;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < 3; ++t) {
    for (int i = 0; i < 2 * 96; ++i) {
      const int n = i % 96;
      if (out[t][i] != t * (n + 1) + n * (n + 1) / 2) return false;
    }
  }
  return kept[0] && kept[1] && kept[2] && of_this_host_thread == 7;
}

int main(int argument_count, char** arguments) {
  return run_cases({{"dynamic_shared_memory", dynamic_shared_memory},
                    {"launch_errors", launch_errors},
                    {"device_and_stream", device_and_stream},
                    {"arguments_are_copies", arguments_are_copies},
                    {"host_threads", host_threads}},
                   argument_count, arguments);
}
