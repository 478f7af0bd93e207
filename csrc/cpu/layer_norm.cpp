// Dropout, residual, LayerNorm, dropout: a row is read once, stays in the first-level cache, and is written once. Masks are
// recomputed in the backward pass instead of being kept.
#include "cpu/layer_norm.h"

#include <cmath>

#include "cpu/parallel.h"
#include "cpu/philox_vector.h"
#include "cpu/scratch.h"
#include "cpu/simd.h"

namespace rearec {
namespace {

constexpr int64_t kBlock = 128;  // elements per vector of counters: 16 lanes, 4 words, 2 halves

// One of the two dropouts of a call.
struct Stream {
  uint64_t seed;
  uint32_t number;
  uint32_t threshold;  // below 2^16; 0: nothing is dropped
  float scale;         // of what is kept

  Stream(uint64_t seed, uint32_t number, double probability) : seed(seed), number(number) {
    const uint32_t nearest = static_cast<uint32_t>(probability * 65536.0 + 0.5);
    threshold = nearest < 65536 ? nearest : 65535;
    scale = static_cast<float>(65536.0 / (65536.0 - threshold));
  }
};

Stream stream_of_x(const ElementDropout& dropout) { return {dropout.seed, 0, dropout.x_probability}; }
Stream stream_of_output(const ElementDropout& dropout) { return {dropout.seed, 1, dropout.output_probability}; }

// The 16 bits of each element of one block.
void random_block(uint64_t seed, uint32_t stream, int64_t block, uint16_t* bits) {
  const vuint lanes = lane_numbers();
  for (int lane = 0; lane < 16; lane += kLanes) {
    const uint64_t counter = 16 * static_cast<uint64_t>(block) + lane;  // 16 of them have the high word in common
    vuint c[4] = {lanes + static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32) - vuint{},
                  stream - vuint{}, vuint{}};
    philox(seed, c);
    for (int word = 0; word < 4; ++word) {
      const vhalf low = __builtin_convertvector(c[word] & 0xffffu, vhalf);
      const vhalf high = __builtin_convertvector(c[word] >> 16, vhalf);
      std::memcpy(bits + 32 * word + lane, &low, sizeof low);
      std::memcpy(bits + 32 * word + 16 + lane, &high, sizeof high);
    }
  }
}

// The random bits of one row after another.
class RowBits {
 public:
  RowBits(const Stream& stream, const MaskRows& rows, int64_t width, uint16_t* memory)
      : stream_(stream), rows_(rows), width_(width), memory_(memory) {}
  static int64_t floats(int64_t width) { return (width + 2 * kBlock) / 2; }

  // One per element; what lies behind the last one may be read.
  const uint16_t* row(int64_t r) {
    if (stream_.threshold == 0) return memory_;
    const int64_t begin = rows_.number(r) * width_, block = begin / kBlock, last = (begin + width_ - 1) / kBlock;
    // A row that does not end with a block leaves its rest to the next one.
    int64_t i = block;
    if (filled_ == block && width_ > 0) {
      if (held_ != block) std::memmove(memory_, memory_ + (block - held_) * kBlock, kBlock * sizeof(uint16_t));
      ++i;
    }
    for (; i <= last; ++i) random_block(stream_.seed, stream_.number, i, memory_ + (i - block) * kBlock);
    held_ = block;
    filled_ = last;
    return memory_ + begin % kBlock;
  }

 private:
  const Stream& stream_;
  const MaskRows rows_;
  int64_t width_;
  uint16_t* memory_;
  int64_t held_ = -1, filled_ = -1;  // blocks in memory, from first to last
};

REAREC_INLINE vfloat dropped(const Stream& stream, const uint16_t* bits, vfloat x) {
  if (stream.threshold == 0) return x;
  vhalf half;
  std::memcpy(&half, bits, sizeof half);
  const vuint word = __builtin_convertvector(half, vuint);
  return word < stream.threshold ? vfloat{} : x * stream.scale;
}

REAREC_INLINE vfloat only(vfloat v, int64_t count) {
  for (int64_t i = count; i < kLanes; ++i) v[i] = 0;
  return v;
}

// The residual sum of row r, padded with zeros; returns its sum.
template <class T>
REAREC_INLINE vfloat residual_sum(const LayerNorm& a, const Stream& of_x, int64_t r, const uint16_t* bits, float* sum) {
  const T* x = static_cast<const T*>(a.x) + r * a.width;
  const float* residual = a.residual ? a.residual + r * a.width : nullptr;
  vfloat total{};
  for (int64_t i = 0; i < a.width; i += kLanes) {
    const int64_t count = a.width - i;
    vfloat v = dropped(of_x, bits + i, load_part(x + i, count));
    if (residual) v += load_part(residual + i, count);
    store(sum + i, v);
    total += v;
  }
  return total;
}

// Rows of one thread: the same for the same number of threads, so that sums over rows are.
REAREC_INLINE int64_t first_row(int64_t rows, int64_t thread, int64_t threads) { return rows * thread / threads; }

int threads_for(const LayerNorm& a) { return a.rows * a.width > (1 << 14) ? a.threads : 1; }

template <class T>
void forward_rows(const LayerNormForward& f) {
  const LayerNorm& a = f.norm;
  const Stream of_x = stream_of_x(f.dropout), of_output = stream_of_output(f.dropout);
  const float inverse_width = 1.0f / static_cast<float>(a.width);
  for_each_task(threads_for(a), a.threads, [&](int64_t thread) {
    Scratch scratch(padded(a.width) + 2 * RowBits::floats(a.width));
    float* sum_of = scratch.data;
    uint16_t* const bits_of_x = reinterpret_cast<uint16_t*>(scratch.data + padded(a.width));
    RowBits x_bits(of_x, f.dropout.mask_rows, a.width, bits_of_x);
    RowBits output_bits(of_output, f.dropout.mask_rows, a.width, bits_of_x + 2 * RowBits::floats(a.width));
    const int64_t last = first_row(a.rows, thread + 1, a.threads);
    for (int64_t r = first_row(a.rows, thread, a.threads); r < last; ++r) {
      const float mean = sum(residual_sum<T>(a, of_x, r, x_bits.row(r), sum_of)) * inverse_width;
      vfloat squares{};
      for (int64_t i = 0; i < a.width; i += kLanes) {
        const vfloat centred = only(load(sum_of + i) - mean, a.width - i);
        squares += centred * centred;
      }
      const float inverse = 1.0f / std::sqrt(sum(squares) * inverse_width + a.eps);
      if (a.statistics) {
        a.statistics[2 * r] = mean;
        a.statistics[2 * r + 1] = inverse;
      }
      const uint16_t* bits = output_bits.row(r);
      float* out = f.out + r * a.width;
      for (int64_t i = 0; i < a.width; i += kLanes) {
        const int64_t count = a.width - i;
        const vfloat normalised = (load(sum_of + i) - mean) * inverse;
        const vfloat y = normalised * load_part(a.weight + i, count) + load_part(a.bias + i, count);
        store_part(out + i, dropped(of_output, bits + i, y), count);
      }
    }
  });
}

template <class T>
void backward_rows(const LayerNormBackward& b) {
  const LayerNorm& a = b.norm;
  const Stream of_x = stream_of_x(b.dropout), of_output = stream_of_output(b.dropout);
  const int64_t width = padded(a.width);
  const float inverse_width = 1.0f / static_cast<float>(a.width);
  for_each_task(threads_for(a), a.threads, [&](int64_t thread) {
    Scratch scratch(4 * width + 2 * RowBits::floats(a.width));
    float* normalised = scratch.data;
    float* grad = normalised + width;
    float* grad_weight = grad + width;
    float* grad_bias = grad_weight + width;
    uint16_t* bits = reinterpret_cast<uint16_t*>(grad_bias + width);
    RowBits x_bits(of_x, b.dropout.mask_rows, a.width, bits);
    RowBits output_bits(of_output, b.dropout.mask_rows, a.width, bits + 2 * RowBits::floats(a.width));
    for (int64_t i = 0; i < 2 * width; ++i) grad_weight[i] = 0;
    const int64_t last = first_row(a.rows, thread + 1, a.threads);
    for (int64_t r = first_row(a.rows, thread, a.threads); r < last; ++r) {
      const uint16_t* bits_of_x = x_bits.row(r);
      const uint16_t* bits_of_output = output_bits.row(r);
      residual_sum<T>(a, of_x, r, bits_of_x, normalised);
      const float mean = a.statistics[2 * r], inverse = a.statistics[2 * r + 1];
      const float* grad_out = b.grad_out + r * a.width;
      vfloat total{}, weighted{};
      for (int64_t i = 0; i < a.width; i += kLanes) {
        const int64_t count = a.width - i;
        const vfloat n = only((load(normalised + i) - mean) * inverse, count);
        const vfloat upstream = dropped(of_output, bits_of_output + i, load_part(grad_out + i, count));
        const vfloat g = upstream * load_part(a.weight + i, count);
        store(grad_weight + i, load(grad_weight + i) + upstream * n);
        store(grad_bias + i, load(grad_bias + i) + upstream);
        store(normalised + i, n);
        store(grad + i, g);
        total += g;
        weighted += g * n;
      }
      const float mean_grad = sum(total) * inverse_width, mean_weighted = sum(weighted) * inverse_width;
      for (int64_t i = 0; i < a.width; i += kLanes) {
        const int64_t count = a.width - i;
        const vfloat g = (load(grad + i) - mean_grad - load(normalised + i) * mean_weighted) * inverse;
        if (b.grad_residual) store_part(b.grad_residual + r * a.width + i, g, count);
        if (b.grad_x)
          store_part(static_cast<T*>(b.grad_x) + r * a.width + i, dropped(of_x, bits_of_x + i, g), count);
      }
    }
    float* to = b.grad_parameters + thread * 2 * a.width;
    std::memcpy(to, grad_weight, sizeof(float) * a.width);
    std::memcpy(to + a.width, grad_bias, sizeof(float) * a.width);
  });
  for (int64_t i = 2 * a.width; i < a.threads * 2 * a.width; ++i) b.grad_parameters[i % (2 * a.width)] += b.grad_parameters[i];
}

void forward(const LayerNormForward& f) {
  f.norm.x_is_bfloat16 ? forward_rows<bfloat16>(f) : forward_rows<float>(f);
}

void backward(const LayerNormBackward& b) {
  b.norm.x_is_bfloat16 ? backward_rows<bfloat16>(b) : backward_rows<float>(b);
}

}  // namespace

namespace REAREC_ISA {
const LayerNormKernels layer_norm = {forward, backward};
}

}  // namespace rearec
