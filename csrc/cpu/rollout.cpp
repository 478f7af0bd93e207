// Rows are independent of each other, so a thread takes a block of them through all steps and layers: the block's states
// and tokens stay in its cache, and the weights are read once per block, layer and step.
#include "cpu/rollout.h"

#include <cmath>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/attention_row.h"
#include "cpu/packed_linear.h"

namespace rearec {
namespace {

struct PackedNorm {
  int64_t at;  // weight, then bias, each filled up with zeros to whole panels
};

// Hands out places in the packed weights, in the order in which a step reads them.
struct PackedPlaces {
  int64_t width;
  int64_t next = 0;

  PackedLinear linear(int64_t inputs, int64_t outputs) {
    const PackedLinear place{inputs, outputs, next};
    next += place.floats();
    return place;
  }
  PackedNorm norm() {
    const PackedNorm place{next};
    next += 2 * whole_panels(width);
    return place;
  }
};

struct PackedLayer {
  PackedLinear query, key, value, output;
  PackedNorm attention_norm;
  PackedLinear inner, outer;
  PackedNorm feed_forward_norm;

  PackedLayer(PackedPlaces& places, int64_t ffn)
      : query(places.linear(places.width, places.width)),
        key(places.linear(places.width, places.width)),
        value(places.linear(places.width, places.width)),
        output(places.linear(places.width, places.width)),
        attention_norm(places.norm()),
        inner(places.linear(places.width, ffn)),
        outer(places.linear(ffn, places.width)),
        feed_forward_norm(places.norm()) {}
};

int64_t width_of(const LayerStack& stack) { return stack.heads * stack.head_dim; }

int64_t packed_floats(const LayerStack& stack) {
  PackedPlaces places{width_of(stack)};
  places.norm();
  for (int64_t l = 0; l < stack.layers; ++l) PackedLayer(places, stack.ffn);
  return places.next;
}

void pack(const PackedNorm& norm, int64_t width, const float* weight, const float* bias, float* packed) {
  const int64_t padded = whole_panels(width);
  float* to = packed + norm.at;
  for (int64_t i = 0; i < padded; ++i) {
    to[i] = i < width ? weight[i] : 0;
    to[padded + i] = i < width ? bias[i] : 0;
  }
}

void pack_layers(const LayerStack& stack, const float* const* tensors, float* packed) {
  const int64_t width = width_of(stack);
  PackedPlaces places{width};
  const auto next = [&](const auto& place) {
    if constexpr (sizeof(place) == sizeof(PackedNorm))
      pack(place, width, tensors[0], tensors[1], packed);
    else
      pack(place, tensors[0], tensors[1], packed);
    tensors += 2;
  };
  next(places.norm());
  for (int64_t l = 0; l < stack.layers; ++l) {
    const PackedLayer layer(places, stack.ffn);
    next(layer.query);
    next(layer.key);
    next(layer.value);
    next(layer.output);
    next(layer.attention_norm);
    next(layer.inner);
    next(layer.outer);
    next(layer.feed_forward_norm);
  }
}

// x = LayerNorm(x + added), row by row; `added` may be none. Both are filled up with zeros to whole panels, and stay so.
void add_and_normalise(const float* added, int64_t added_stride, float* x, int64_t rows, int64_t width,
                       const PackedNorm& norm, const float* packed, float eps) {
  const int64_t padded = whole_panels(width);
  const float* weight = packed + norm.at;
  const float* bias = weight + padded;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = x + r * padded;
    const float* other = added + r * added_stride;
    vfloat total{};
    for (int64_t i = 0; i < padded; i += kLanes) {
      vfloat v = load(row + i);
      if (added) store(row + i, v += load(other + i));
      total += v;
    }
    const float mean = sum(total) / static_cast<float>(width);
    vfloat squares{};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      const vfloat difference = load(row + i) - mean;
      squares += difference * difference;
    }
    float rest = 0;
    for (; i < width; ++i) rest += (row[i] - mean) * (row[i] - mean);
    const float scale = 1.0f / std::sqrt((sum(squares) + rest) / static_cast<float>(width) + eps);
    for (i = 0; i < padded; i += kLanes)
      store(row + i, (load(row + i) - mean) * scale * load(weight + i) + load(bias + i));
  }
}

// x = x Phi(x), the exact GELU.
void gelu(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const vfloat v = load(x + i);
    store(x + i, v * normal_cdf(v));
  }
}

constexpr int64_t kBlockRows = 48;

int64_t block_count(const Rollout& a) {
  const int64_t blocks = (a.rows.count + kBlockRows - 1) / kBlockRows;
  return blocks > 0 ? blocks : 1;
}
int64_t block_rows(const Rollout& a) { return (a.rows.count + block_count(a) - 1) / block_count(a); }

// The memory of one block: rows of whole panels.
struct BlockMemory {
  float *token, *query, *attended, *update, *inner;
  float *keys, *values;  // [layers, rows, steps, width]
  float* scores;
  int64_t floats;

  BlockMemory(const Rollout& a, float* scratch) {
    const int64_t rows = block_rows(a), width = whole_panels(width_of(a.stack));
    int64_t slots = 0;
    for (int64_t l = 0; l < a.stack.layers; ++l) slots = a.prefixes[l].slots > slots ? a.prefixes[l].slots : slots;
    float* next = scratch;
    const auto take = [&](int64_t count) {
      float* taken = next;
      next += (count + 15) / 16 * 16;
      return taken;
    };
    token = take(rows * width);
    query = take(rows * width);
    attended = take(rows * width);
    update = take(rows * width);
    inner = take(rows * whole_panels(a.stack.ffn));
    keys = take(a.stack.layers * rows * a.steps * width);
    values = take(a.stack.layers * rows * a.steps * width);
    scores = take(2 * (slots + a.steps));
    floats = next - scratch;
  }
};

template <int D>
void run_block(const Rollout& a, int64_t first, int64_t rows, const BlockMemory& memory) {
  const LayerStack& stack = a.stack;
  const int64_t width = width_of(stack), padded = whole_panels(width), inner_width = whole_panels(stack.ffn);
  const int64_t state_stride = (a.steps + 1) * width;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = a.rows.order[first + r];
    std::memcpy(memory.token + r * padded, a.hidden + row * width, sizeof(float) * width);
    std::memset(memory.token + r * padded + width, 0, sizeof(float) * (padded - width));
    std::memcpy(a.states + row * state_stride, a.hidden + row * width, sizeof(float) * width);
  }
  for (int64_t step = 0; step < a.steps; ++step) {
    PackedPlaces places{width};
    if (a.positions) {
      std::memcpy(memory.update, a.positions + step * width, sizeof(float) * width);
      std::memset(memory.update + width, 0, sizeof(float) * (padded - width));
    }
    add_and_normalise(a.positions ? memory.update : nullptr, 0, memory.token, rows, width, places.norm(), a.packed,
                      stack.norm_eps);
    for (int64_t l = 0; l < stack.layers; ++l) {
      const PackedLayer layer(places, stack.ffn);
      const int64_t tokens_at = l * rows * a.steps * padded;
      const int64_t row_stride = a.steps * padded;
      float* keys = memory.keys + tokens_at;
      float* values = memory.values + tokens_at;
      multiply(layer.query, a.packed, rows, memory.token, padded, memory.query, padded);
      multiply(layer.key, a.packed, rows, memory.token, padded, keys + step * padded, row_stride);
      multiply(layer.value, a.packed, rows, memory.token, padded, values + step * padded, row_stride);

      const TokenSegment tokens{keys, values, row_stride, padded, a.steps};
      AttentionForward attention{};
      attention.shape = {DType::float32, 1, stack.heads, stack.heads, stack.head_dim, step + 1,
                         1.0f / std::sqrt(static_cast<float>(stack.head_dim))};
      attention.prefix = a.prefixes[l];
      attention.segments = &tokens;
      attention.segment_count = 1;
      for (int64_t r = 0; r < rows; ++r)
        attend<float, D>(attention, RowView(RowView(a.rows, first + r), r), 0, memory.query + r * padded,
                     memory.attended + r * padded, memory.scores);

      multiply(layer.output, a.packed, rows, memory.attended, padded, memory.update, padded);
      add_and_normalise(memory.update, padded, memory.token, rows, width, layer.attention_norm, a.packed,
                        stack.norm_eps);
      multiply(layer.inner, a.packed, rows, memory.token, padded, memory.inner, inner_width);
      gelu(memory.inner, rows * inner_width);
      multiply(layer.outer, a.packed, rows, memory.inner, inner_width, memory.update, padded);
      add_and_normalise(memory.update, padded, memory.token, rows, width, layer.feed_forward_norm, a.packed,
                        stack.norm_eps);
    }
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(a.states + a.rows.order[first + r] * state_stride + (step + 1) * width, memory.token + r * padded,
                  sizeof(float) * width);
  }
}

int block_threads(const Rollout& a) {
  const int64_t blocks = block_count(a);
  return static_cast<int>(blocks < a.threads ? blocks : a.threads);
}

int64_t scratch_floats(const Rollout& a) { return block_threads(a) * BlockMemory(a, nullptr).floats; }

template <int D>
void run_blocks(const Rollout& a) {
  const int64_t blocks = block_count(a), rows = block_rows(a);
  const int threads = block_threads(a);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#if defined(_OPENMP)
    const int thread = omp_get_thread_num();
#else
    const int thread = 0;
#endif
    const BlockMemory memory(a, a.scratch + thread * BlockMemory(a, nullptr).floats);
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = b * rows, left = a.rows.count - first;
      if (left > 0) run_block<D>(a, first, left < rows ? left : rows, memory);
    }
  }
}

void run(const Rollout& a) {
  with_head_width(a.stack.head_dim, [&](auto width) { run_blocks<width.value>(a); });
}

}  // namespace

namespace REAREC_ISA {
const RolloutKernels rollout = {packed_floats, pack_layers, scratch_floats, run};
}

}  // namespace rearec
