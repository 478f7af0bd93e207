#include "cuda/launch.h"

namespace rearec::cuda {

void synchronize(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status), "cudaStreamIsCapturing");
  if (status == cudaStreamCaptureStatusNone) check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "a kernel");
}

}  // namespace rearec::cuda
