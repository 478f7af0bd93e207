// The largest sizes that kernels take. Each is an attribute of the Python module, so that it stands here alone. (A file
// named limits.h would be in the way of the C library's.)
#pragma once
#include <cstdint>

namespace rearec {

constexpr int kMaxHeadDim = 1024;        // of attention: a head of any width is kept on the stack
constexpr int kMaxEnsembleStates = 64;   // per row, of the ensemble loss: likewise
constexpr int64_t kMaxDirectRows = 8;    // of a top-k that computes the scores itself

namespace cuda {

constexpr int kMaxHeadDim = 256;
// Arguments travel in the launch itself, whose size is limited: callers join further segments or steps into one.
constexpr int kMaxSegments = 32;
constexpr int kMaxSteps = 32;

}  // namespace cuda
}  // namespace rearec
