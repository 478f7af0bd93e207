// Products of some rows with the weights of a linear layer that were packed once: y = x W^T + bias.
//
// Packed means panels of kPanel outputs, the last one filled up with zeros. A panel is its biases, then for every input
// the weights of its outputs: products read it from front to back. Every output is a sum of sums of kSummed products in
// the order of the inputs, so a row's results do not depend on which rows are computed with it.
#pragma once
#include "cpu/simd.h"

namespace rearec {
namespace {

constexpr int kPanel = 2 * kLanes;
// Rows taken together: their sums fill the registers, but for two vectors of weights and one of inputs.
constexpr int kTileRows = (kRegisters - 4) / 2;

// Long sums round more: in one sum of 256 products twice as much as in the sums of a careful matrix product.
constexpr int64_t kSummed = 64;

constexpr int64_t whole_panels(int64_t outputs) { return round_up(outputs, kPanel); }

struct PackedLinear {
  int64_t inputs, outputs;
  int64_t at;  // offset of its panels in the packed weights

  int64_t floats() const { return whole_panels(outputs) * (inputs + 1); }
};

// weight [outputs, inputs] and bias [outputs], dense.
void pack(const PackedLinear& linear, const float* weight, const float* bias, float* packed) {
  float* to = packed + linear.at;
  for (int64_t first = 0; first < linear.outputs; first += kPanel) {
    const int64_t count = linear.outputs - first < kPanel ? linear.outputs - first : kPanel;
    for (int64_t i = 0; i < kPanel * (linear.inputs + 1); ++i) to[i] = 0;
    for (int64_t j = 0; j < count; ++j) {
      to[j] = bias[first + j];
      for (int64_t k = 0; k < linear.inputs; ++k) to[(k + 1) * kPanel + j] = weight[(first + j) * linear.inputs + k];
    }
    to += kPanel * (linear.inputs + 1);
  }
}

// `Ahead`: asks for the panel that follows, which the first rows would wait for.
template <int Rows, int Panels, bool Ahead>
REAREC_INLINE void multiply_tile(const float* x, int64_t x_stride, const float* panels, int64_t inputs, float* y,
                                 int64_t y_stride) {
  vfloat sums[Rows][2 * Panels];
  const int64_t panel = kPanel * (inputs + 1);
  for (int64_t first = 0; first < inputs; first += kSummed) {
    const int64_t last = inputs - first < kSummed ? inputs : first + kSummed;
    for (int r = 0; r < Rows; ++r)
      for (int p = 0; p < Panels; ++p) {
        sums[r][2 * p] = first ? vfloat{} : load(panels + p * panel);
        sums[r][2 * p + 1] = first ? vfloat{} : load(panels + p * panel + kLanes);
      }
    for (int64_t k = first; k < last; ++k) {
      const float* weights = panels + (k + 1) * kPanel;
      if constexpr (Ahead) prefetch(weights + panel, kPanel);
      for (int p = 0; p < Panels; ++p) {
        const vfloat even = load(weights + p * panel), odd = load(weights + p * panel + kLanes);
        for (int r = 0; r < Rows; ++r) {
          const vfloat input = broadcast(x[r * x_stride + k]);
          sums[r][2 * p] += input * even;
          sums[r][2 * p + 1] += input * odd;
        }
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < 2 * Panels; ++v) {
        float* to = y + r * y_stride + v * kLanes;
        store(to, first ? load(to) + sums[r][v] : sums[r][v]);
      }
  }
}

template <bool Ahead, int Rows = kTileRows>
REAREC_INLINE void multiply_rows(int64_t rows, const float* x, int64_t x_stride, const float* panel, int64_t inputs,
                                 float* y, int64_t y_stride) {
  if (rows == Rows)
    multiply_tile<Rows, 1, Ahead>(x, x_stride, panel, inputs, y, y_stride);
  else if constexpr (Rows > 1)
    multiply_rows<Ahead, Rows - 1>(rows, x, x_stride, panel, inputs, y, y_stride);
}

// The panels [begin, end) of y: x [rows, inputs] and y [rows, whole_panels(outputs)] with these row strides. What is
// past y's outputs becomes 0.
void multiply(const PackedLinear& linear, const float* packed, int64_t begin, int64_t end, int64_t rows, const float* x,
              int64_t x_stride, float* y, int64_t y_stride) {
  const int64_t inputs = linear.inputs, panel_floats = kPanel * (inputs + 1);
  const float* panel = packed + linear.at + begin * panel_floats;
  y += begin * kPanel;
  int64_t count = end - begin;
  if (rows == 1) {  // one sum per vector would wait for itself
    for (; count >= 4; count -= 4, panel += 4 * panel_floats, y += 4 * kPanel)
      multiply_tile<1, 4, false>(x, x_stride, panel, inputs, y, y_stride);
  }
  const int64_t tiles = ceil_divide(rows, kTileRows);
  const int64_t tile = ceil_divide(rows, tiles);
  for (; count > 0; --count, panel += panel_floats, y += kPanel) {
    multiply_rows<true>(tile, x, x_stride, panel, inputs, y, y_stride);
    for (int64_t row = tile; row < rows; row += tile)
      multiply_rows<false>(rows - row < tile ? rows - row : tile, x + row * x_stride, x_stride, panel, inputs,
                           y + row * y_stride, y_stride);
  }
}

}  // namespace
}  // namespace rearec
