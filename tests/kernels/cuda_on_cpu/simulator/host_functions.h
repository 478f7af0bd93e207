// The part of CUDA's runtime that launchers call. One device, one stream; a launch returns when its grid is done.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <mutex>
#include <utility>

#include "launch.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotSupported = 801,
};

struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2,
};

enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

struct cudaLaunchAttribute;  // none is supported

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace cuda_on_cpu {

inline thread_local cudaError_t last_error = cudaSuccess;  // of the host thread

inline cudaError_t keep(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// How much dynamic shared memory a kernel may ask for: 48 KB unless cudaFuncSetAttribute says otherwise.
struct DynamicSharedMemoryLimit {
  const void* kernel;
  size_t bytes;
  DynamicSharedMemoryLimit* next;
};

inline DynamicSharedMemoryLimit* dynamic_shared_memory_limits = nullptr;  // the latest first
inline std::mutex limits_mutex;

inline size_t dynamic_shared_memory_limit(const void* kernel) {
  const std::lock_guard<std::mutex> lock(limits_mutex);
  for (const auto* limit = dynamic_shared_memory_limits; limit != nullptr; limit = limit->next) {
    if (limit->kernel == kernel) return limit->bytes;
  }
  return 48 << 10;
}

inline void set_dynamic_shared_memory_limit(const void* kernel, size_t bytes) {
  const std::lock_guard<std::mutex> lock(limits_mutex);
  dynamic_shared_memory_limits = new DynamicSharedMemoryLimit{kernel, bytes, dynamic_shared_memory_limits};
}

inline cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 grid = config.gridDim, shape = config.blockDim;
  if (config.numAttrs != 0) return cudaErrorNotSupported;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  if (shape.x == 0 || shape.y == 0 || shape.z == 0 || shape.x > kMaxThreads || shape.y > kMaxThreads || shape.z > 64 ||
      shape.x * shape.y * shape.z > kMaxThreads) {
    return cudaErrorInvalidConfiguration;
  }
  return config.dynamicSmemBytes > dynamic_shared_memory_limit(kernel) ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace cuda_on_cpu

// Launch errors stay until they are asked for.
inline cudaError_t cudaPeekAtLastError() { return cuda_on_cpu::last_error; }
inline cudaError_t cudaGetLastError() { return std::exchange(cuda_on_cpu::last_error, cudaSuccess); }

inline const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
  }
  return "unrecognized error code";
}

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNotSupported:
      return "operation not supported";
  }
  return "unrecognized error code";
}

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) {
  return cuda_on_cpu::keep(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

namespace cuda_on_cpu {
inline int multiprocessors = 132;  // those of an H100; launchers that spread work by it can be tested with others
}

// As an H100 answers.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cuda_on_cpu::keep(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = cuda_on_cpu::kMaxThreads;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = cuda_on_cpu::kWarpLanes;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = cuda_on_cpu::multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = cuda_on_cpu::kMaxDynamicSharedMemory;
      return cudaSuccess;
  }
  return cuda_on_cpu::keep(cudaErrorInvalidValue);
}

inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > cuda_on_cpu::kMaxDynamicSharedMemory) {
    return cuda_on_cpu::keep(cudaErrorInvalidValue);
  }
  cuda_on_cpu::set_dynamic_shared_memory_limit(reinterpret_cast<const void*>(kernel), static_cast<size_t>(bytes));
  return cudaSuccess;
}

// Every thread gets its own copies of the arguments, converted to the kernel's parameters once.
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const cudaError_t error = cuda_on_cpu::check_launch(*config, reinterpret_cast<const void*>(kernel));
  if (error != cudaSuccess) return cuda_on_cpu::keep(error);
  [&](Parameters... parameters) {
    const auto call = [&] { kernel(parameters...); };
    cuda_on_cpu::run_grid(
        config->gridDim, config->blockDim, config->dynamicSmemBytes,
        [](const void* context) { (*static_cast<decltype(&call)>(context))(); }, &call);
  }(std::forward<Arguments>(arguments)...);
  return cudaSuccess;
}
