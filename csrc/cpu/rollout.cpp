// Rows are independent of each other, so a thread takes a block of them through all steps and layers: the block's states
// and tokens stay in its cache, and the weights are read once per block, layer and step. With few rows the weights are
// what takes time; then all threads work on one block, each with a share of every linear layer's outputs.
#include "cpu/rollout.h"

#include <sched.h>

#include <cmath>

#include "cpu/attention_row.h"
#include "cpu/packed_layers.h"
#include "cpu/parallel.h"

namespace rearec {
namespace {

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

// x = x Phi(x), the exact GELU, of the columns [begin, end).
void gelu(float* x, int64_t rows, int64_t stride, int64_t begin, int64_t end) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = begin; i < end; i += kLanes) {
      const vfloat v = load(x + r * stride + i);
      store(x + r * stride + i, v * normal_cdf(v));
    }
}

// The threads that work on one block, and which of them this one is.
struct Team {
  int member = 0, size = 1;
  int* arrivals = nullptr;  // of all members together, ever
  int rounds = 0;

  int64_t begin(int64_t count) const { return count * member / size; }
  int64_t end(int64_t count) const { return count * (member + 1) / size; }

  // Until all members are here. OpenMP's barrier spins for milliseconds, which is what each of the many waits of a
  // rollout would take where a thread that is waited for shares its core with the one that waits.
  void wait() {
    if (size == 1) return;
    const int all = size * ++rounds;
    __atomic_add_fetch(arrivals, 1, __ATOMIC_ACQ_REL);
    for (int spins = 0; __atomic_load_n(arrivals, __ATOMIC_ACQUIRE) < all; ++spins) {
      if (spins < 1000)
        pause();
      else
        sched_yield();
    }
  }
};

constexpr int64_t kBlockRows = 48;   // at most: their states and tokens fit into a cache of 1 MB at the paper's width
constexpr int64_t kPanelsEach = 2;  // at least, for a member of a team: fewer are not worth the waiting

// How the rows are dealt to the threads: in blocks, or one block to a team.
struct Plan {
  int64_t blocks, rows;  // rows of a block, the last one may have fewer
  int threads;
  bool team;

  Plan(const Rollout& a, bool may_team) {
    const int64_t count = a.rows.count, members = whole_panels(width_of(a.stack)) / kPanel / kPanelsEach;
    team = may_team && a.threads > 1 && members > 1 && count < 2 * kTileRows;
    int64_t each = team ? count : ceil_divide(count, a.threads);
    each = each < kTileRows ? kTileRows : (each > kBlockRows ? kBlockRows : each);
    blocks = team || count == 0 ? 1 : ceil_divide(count, each);
    rows = ceil_divide(count, blocks);
    const int64_t useful = team ? members : blocks;
    threads = static_cast<int>(useful < a.threads ? useful : a.threads);
  }
};

// The memory of one block: rows of whole panels. Members of a team keep a token, a position and scores of their own.
struct BlockMemory {
  float *token, *position, *scores;
  float *query, *attended, *update, *inner;
  float *keys, *values;  // [layers, rows, steps, width]
  int64_t floats;

  BlockMemory(const Rollout& a, int64_t rows, float* scratch) {
    const int64_t width = whole_panels(width_of(a.stack));
    int64_t slots = 0;
    for (int64_t l = 0; l < a.stack.layers; ++l) {
      const int64_t of_layer = a.prefixes.items[l].slots;
      slots = of_layer > slots ? of_layer : slots;
    }
    float* next = scratch;
    const auto take = [&](int64_t count) {
      float* taken = next;
      next += round_up(count, 16);
      return taken;
    };
    token = take(rows * width);
    position = take(width);
    scores = take(2 * (slots + a.steps));
    query = take(rows * width);
    attended = take(rows * width);
    update = take(rows * width);
    inner = take(rows * whole_panels(a.stack.ffn));
    keys = take(a.stack.layers * rows * a.steps * width);
    values = take(a.stack.layers * rows * a.steps * width);
    floats = next - scratch;
  }

  void share(const BlockMemory& first) {
    query = first.query;
    attended = first.attended;
    update = first.update;
    inner = first.inner;
    keys = first.keys;
    values = first.values;
  }
};

// A member's part of the attention of a block: some of the rows, or where there are fewer rows than members, some of the
// heads.
template <int D>
void attend_block(const Rollout& a, const Team& team, int64_t first, int64_t rows, const Prefix& prefix, int64_t step,
                  TokenSegment tokens, const BlockMemory& memory) {
  const LayerStack& stack = a.stack;
  const int64_t padded = whole_panels(width_of(stack));
  const bool by_row = rows >= team.size;
  const int64_t head = by_row ? 0 : team.begin(stack.heads);
  const int64_t heads = by_row ? stack.heads : team.end(stack.heads) - head;
  const int64_t offset = head * stack.head_dim;
  tokens.k = static_cast<const float*>(tokens.k) + offset;
  tokens.v = static_cast<const float*>(tokens.v) + offset;
  AttentionForward attention{};
  attention.shape = {DType::float32, 1, heads, heads, stack.head_dim, step + 1,
                     1.0f / std::sqrt(static_cast<float>(stack.head_dim))};
  attention.prefix = prefix;
  attention.prefix.k = static_cast<const float*>(prefix.k) + head * prefix.k_stride.head;
  attention.prefix.v = static_cast<const float*>(prefix.v) + head * prefix.v_stride.head;
  attention.segments = {&tokens, 1};
  for (int64_t r = by_row ? team.begin(rows) : 0; r < (by_row ? team.end(rows) : rows); ++r)
    attend<float, D>(attention, RowView(RowView(a.rows, first + r), r), 0, memory.query + r * padded + offset,
                     memory.attended + r * padded + offset, memory.scores);
}

// attend_block of some width: all else is the same for all, and compiled once.
using AttendBlock = void (*)(const Rollout&, const Team&, int64_t, int64_t, const Prefix&, int64_t, TokenSegment,
                             const BlockMemory&);

void run_block(const Rollout& a, AttendBlock attend, Team team, int64_t first, int64_t rows, const BlockMemory& memory) {
  const LayerStack& stack = a.stack;
  const int64_t width = width_of(stack), padded = whole_panels(width), inner_width = whole_panels(stack.ffn);
  const int64_t state_stride = (a.steps + 1) * width, row_stride = a.steps * padded;
  const auto multiply_share = [&](const PackedLinear& linear, const float* x, int64_t x_stride, float* y,
                                  int64_t y_stride) {
    const int64_t panels = whole_panels(linear.outputs) / kPanel;
    multiply(linear, a.packed, team.begin(panels), team.end(panels), rows, x, x_stride, y, y_stride);
  };
  const auto add_update = [&](const PackedNorm& norm) {
    add_and_normalise(memory.update, padded, memory.token, rows, width, norm, a.packed, stack.norm_eps);
  };
  // Every member normalises all rows, into a token of its own: quicker than waiting for each other's rows.
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = a.rows.order[first + r];
    std::memcpy(memory.token + r * padded, a.hidden + row * width, sizeof(float) * width);
    std::memset(memory.token + r * padded + width, 0, sizeof(float) * (padded - width));
    if (team.member == 0) std::memcpy(a.states + row * state_stride, a.hidden + row * width, sizeof(float) * width);
  }
  for (int64_t step = 0; step < a.steps; ++step) {
    PackedPlaces places{width};
    if (a.positions) {
      std::memcpy(memory.position, a.positions + step * width, sizeof(float) * width);
      std::memset(memory.position + width, 0, sizeof(float) * (padded - width));
    }
    add_and_normalise(a.positions ? memory.position : nullptr, 0, memory.token, rows, width, places.norm(), a.packed,
                      stack.norm_eps);
    for (int64_t l = 0; l < stack.layers; ++l) {
      const PackedLayer layer(places, stack.ffn);
      float* keys = memory.keys + l * rows * row_stride;
      float* values = memory.values + l * rows * row_stride;
      multiply_share(layer.query, memory.token, padded, memory.query, padded);
      multiply_share(layer.key, memory.token, padded, keys + step * padded, row_stride);
      multiply_share(layer.value, memory.token, padded, values + step * padded, row_stride);
      team.wait();
      const TokenSegment tokens = {keys, values, row_stride, padded, a.steps};
      attend(a, team, first, rows, a.prefixes.items[l], step, tokens, memory);
      team.wait();
      multiply_share(layer.output, memory.attended, padded, memory.update, padded);
      team.wait();
      add_update(layer.attention_norm);
      multiply_share(layer.inner, memory.token, padded, memory.inner, inner_width);
      gelu(memory.inner, rows, inner_width, team.begin(inner_width / kPanel) * kPanel,
           team.end(inner_width / kPanel) * kPanel);
      team.wait();
      multiply_share(layer.outer, memory.inner, inner_width, memory.update, padded);
      team.wait();
      add_update(layer.feed_forward_norm);
    }
    for (int64_t r = team.begin(rows); r < team.end(rows); ++r)
      std::memcpy(a.states + a.rows.order[first + r] * state_stride + (step + 1) * width, memory.token + r * padded,
                  sizeof(float) * width);
  }
  if (!a.tokens) return;
  for (int64_t l = 0; l < stack.layers; ++l)
    for (int64_t r = team.begin(rows); r < team.end(rows); ++r)
      for (int64_t step = 0; step < a.steps; ++step) {
        const int64_t from = (l * rows + r) * row_stride + step * padded;
        const int64_t to = (a.rows.order[first + r] * a.steps + step) * width;
        const int64_t of_layer = a.rows.count * a.steps * width;
        std::memcpy(a.tokens + 2 * l * of_layer + to, memory.keys + from, sizeof(float) * width);
        std::memcpy(a.tokens + (2 * l + 1) * of_layer + to, memory.values + from, sizeof(float) * width);
      }
}

constexpr int64_t kArrivalsFloats = 16;  // a cache line in front of the blocks' memory, for Team::arrivals

int64_t scratch_floats(const Rollout& a) {
  int64_t most = 0;
  for (int may_team = 0; may_team < 2; ++may_team) {
    const Plan plan(a, may_team != 0);
    const int64_t floats = plan.threads * BlockMemory(a, plan.rows, nullptr).floats;
    most = floats > most ? floats : most;
  }
  return kArrivalsFloats + most;
}

void run_blocks(const Rollout& a, AttendBlock attend, float* scratch) {
  // A member that does not get a processor would keep the others waiting, several times per layer and step.
  const Plan plan(a, !waits_asleep());
  int* const arrivals = reinterpret_cast<int*>(scratch);
  *arrivals = 0;
  float* const blocks = scratch + kArrivalsFloats;
  Tasks tasks(plan.blocks);
  in_threads(plan.threads, [&](int thread, int threads) {
    const BlockMemory first(a, plan.rows, blocks);
    BlockMemory memory(a, plan.rows, blocks + thread * first.floats);
    if (plan.team) {
      memory.share(first);
      run_block(a, attend, Team{thread, threads, arrivals}, 0, plan.rows, memory);
    } else {
      tasks.run([&](int64_t b) {
        const int64_t begin = b * plan.rows, left = a.rows.count - begin;
        if (left > 0) run_block(a, attend, Team{}, begin, left < plan.rows ? left : plan.rows, memory);
      });
    }
  });
}

void run(const Rollout& a, float* scratch) {
  with_head_width(a.stack.head_dim, [&](auto width) { run_blocks(a, attend_block<width.value>, scratch); });
}

}  // namespace

namespace REAREC_ISA {
const RolloutKernels rollout = {packed_floats, pack_layers, scratch_floats, run};
}

}  // namespace rearec
