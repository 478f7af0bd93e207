// Memory of one thread for the time of a call.
#pragma once
#include <cstdint>
#include <cstdlib>

namespace rearec {
namespace {

struct Scratch {
  float* data;  // not initialised
  explicit Scratch(int64_t floats) : data(static_cast<float*>(std::malloc(sizeof(float) * (floats + 1)))) {}
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

}  // namespace
}  // namespace rearec
