// The passes of a softmax loss over a catalog: for statistics, then for gradients.
//
// Users go in groups of 32, whose states of one step are a row block: the columns of one strip, so that a lane of a
// vector is the same user in every step. Items go in blocks that fit the second-level cache, each thread has its own.
// For 32 items and a group, the products of a step leave a block of logits; the loss sums them up, or turns them into
// their gradient in place. That is packed and, for as many groups as fit the cache, multiplied with the states
// (gradient of the table) and with the items (gradient of the states, summed per thread).
#pragma once
#include "cpu/loss.h"
#include "cpu/parallel.h"
#include "cpu/tiles/losses.h"
#include "cpu/tiles/pack.h"
#include "cpu/tiles/workspace.h"

namespace rearec::tiles {
namespace {

static_assert(kTileRows == kSixteen && kBlock == kGroup);

template <int kParts>
class Sweep {
 public:
  Sweep(const SoftmaxOverItems& softmax, void* scratch, const Loss& loss)
      : c_(softmax), loss_(loss), s_(softmax), cut_(scratch), shared_(c_, s_, loss.gradient_vectors(), cut_) {}

  static size_t bytes(const SoftmaxOverItems& softmax, int64_t running_vectors, int64_t gradient_vectors) {
    const Sizes s(softmax);
    Cutter cut(nullptr);
    Shared(softmax, s, gradient_vectors, cut);
    for (int64_t t = 0; t < s.threads; ++t) Own(softmax, s, running_vectors, cut);
    return reinterpret_cast<size_t>(cut.next());
  }

  void run() {
    Cutter cut = cut_;
    const Own first(c_, s_, loss_.running_vectors(), cut);
    const int64_t bytes_of_own = cut.next() - cut_.next();
    in_threads(static_cast<int>(s_.threads), [&](int rank, int size) {
      const Tiles tiles;
      const Team team{rank, size};
      Cutter cut(cut_.next() + rank * bytes_of_own);
      const Own own(c_, s_, loss_.running_vectors(), cut);
      const Running running{first.running, bytes_of_own / static_cast<int64_t>(sizeof(float)), size};
      shared_.grad_rows[team.rank] = own.grad_rows;
      pack_rows(team);
#pragma omp barrier
      if (c_.statistics) {
        statistics(team, own);
#pragma omp barrier
      }
      for (int64_t g = team.rank; g < s_.groups; g += team.size) {
        if (c_.statistics) loss_.merge(g, running);
        if (c_.gradient) loss_.prepare(g, shared_.vectors + g * loss_.gradient_vectors() * kBlock);
      }
      if (c_.gradient) {
#pragma omp barrier
        gradient(team, own);
#pragma omp barrier
        if (c_.grad_rows.values)
          for (int64_t b = team.rank; b < s_.row_blocks; b += team.size) write_grad_rows(b, team.size);
      }
    });
  }

 private:
  static constexpr int64_t kStrip = kStep<kParts>;

  struct Team {
    int64_t rank, size;
  };

  // Consecutive items of one block, and the users whose targets they are.
  struct Items {
    int64_t first, count, steps;
    int64_t users[kItemsPerBlock / kBlock + 1];  // first_users[i]: the first whose target is not below 32 i
  };

  Rows rows_of(int64_t block) const {
    const int64_t user = block / c_.users.steps * kBlock;
    return {c_.rows, user * c_.users.steps + block % c_.users.steps, c_.users.steps, c_.users.count - user, c_.width};
  }
  Rows rows_of(const Items& items, int64_t i) const {
    return {c_.table, items.first + kBlock * i, 1, items.count - kBlock * i, c_.width};
  }

  int64_t first_user(int64_t item) const {
    int64_t low = 0, high = c_.users.count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (c_.users.target[middle] < item) low = middle + 1; else high = middle;
    }
    return low;
  }

  Items items_of(int64_t block) const {
    Items items;
    items.first = block * s_.item_steps * kBlock;
    items.count = smaller(s_.item_steps * kBlock, c_.items - items.first);
    items.steps = ceil_divide(items.count, kBlock);
    for (int64_t i = 0; i <= items.steps; ++i) items.users[i] = first_user(items.first + kBlock * i);
    return items;
  }

  // Calls visit(user, item) for the targets that are in a block of logits, counted within the block's items and lanes.
  template <class Visit>
  REAREC_INLINE void targets(const Items& items, int64_t i, int64_t g, const Visit& visit) const {
    int64_t u = items.users[i], end = items.users[i + 1];
    if (u < g * kBlock) u = g * kBlock;
    if (end > (g + 1) * kBlock) end = (g + 1) * kBlock;
    for (; u < end; ++u) visit(u, u - g * kBlock, c_.users.target[u] - items.first - kBlock * i);
  }

  void pack_rows(Team team) const {
    for (int64_t b = team.rank; b < s_.row_blocks; b += team.size) {
      pack_along<kParts, true>(rows_of(b), s_.width_steps, shared_.row_strips + b * s_.width_steps * kStrip);
      if (c_.gradient && c_.grad_table.values)
        pack_across<kParts, false>(rows_of(b), s_.width_steps, s_.row_blocks * kStrip,
                                   shared_.state_strips + b * kStrip);
      std::memset(shared_.target_gradient + b * kBlock, 0, kBlock * sizeof(float));
    }
  }

  void pack_items(const Items& items, const Own& own, bool across) const {
    for (int64_t i = 0; i < items.steps; ++i) {
      pack_along<kParts, false>(rows_of(items, i), s_.width_steps, own.item_strips + i * s_.width_steps * kStrip);
      if (across)
        pack_across<kParts, true>(rows_of(items, i), s_.width_steps, s_.item_steps * kStrip,
                                  own.across_strips + i * kStrip);
    }
  }

  // The logits of a group, tile by tile.
  REAREC_INLINE static LogitBlock block_of(const Own& own, int64_t items) {
    return {own.logits, static_cast<int>(items), kBlock, kSums, kTileRows, 2 * kSumsTile, kSumsTile};
  }

  // The logits of 32 items for all states of a group.
  REAREC_INLINE void multiply(const Items& items, int64_t i, int64_t g, const Own& own) const {
    const int64_t strip = s_.width_steps * kStrip;
    for (int64_t t = 0; t < c_.users.steps; ++t)
      multiply_strips<kParts, false>(own.item_strips + i * strip, shared_.row_strips + (g * c_.users.steps + t) * strip,
                                     s_.width_steps, own.logits + t * kSums);
    if (c_.group)
      mask_groups(block_of(own, smaller(kBlock, items.count - kBlock * i)), c_.group, items.first + kBlock * i, g * kBlock,
                  c_.users);
  }

  void statistics(Team team, const Own& own) const {
    const int64_t running = loss_.running_vectors() * kBlock;
    for (int64_t g = 0; g < s_.groups; ++g) loss_.begin(own.running + g * running);
    for (int64_t block = first_block(team); block < end_block(team); ++block) {
      const Items items = items_of(block);
      pack_items(items, own, false);
      for (int64_t g = 0; g < s_.groups; ++g)
        for (int64_t i = 0; i < items.steps; ++i) {
          multiply(items, i, g, own);
          loss_.add(block_of(own, smaller(kBlock, items.count - kBlock * i)), own.running + g * running);
          targets(items, i, g, [&](int64_t user, int64_t lane, int64_t item) {
            loss_.target(user, own.logits + sum_index(item, lane), kSums);
          });
        }
    }
  }

  void gradient(Team team, const Own& own) const {
    const bool rows_wanted = c_.grad_rows.values != nullptr, items_wanted = c_.grad_table.values != nullptr;
    std::memset(own.grad_rows, 0, static_cast<size_t>(s_.row_blocks * s_.width_steps * kSums) * sizeof(float));
    for (int64_t block = first_block(team); block < end_block(team); ++block) {
      const Items items = items_of(block);
      pack_items(items, own, rows_wanted);
      for (int64_t g = 0; g < s_.groups; g += s_.chunk_groups) {
        const int64_t end = smaller(g + s_.chunk_groups, s_.groups);
        logits_gradient(items, g, end, own);
        if (items_wanted) multiply_into_items(items, g, end, own);
        if (rows_wanted) multiply_into_rows(items, g, end, own);
      }
      if (items_wanted) write_grad_items(items, own);
    }
    stream_fence();
  }

  void logits_gradient(const Items& items, int64_t first, int64_t end, const Own& own) const {
    for (int64_t g = first; g < end; ++g)
      for (int64_t i = 0; i < items.steps; ++i) {
        multiply(items, i, g, own);
        // Beyond the last item the last one is repeated: something finite, to be multiplied with zeros.
        for (int64_t item = items.count - kBlock * i; item < kBlock; ++item)
          for (int64_t t = 0; t < c_.users.steps; ++t)
            for (int64_t lane = 0; lane < kBlock; lane += kTileRows)
              std::memcpy(own.logits + t * kSums + sum_index(item, lane),
                          own.logits + t * kSums + sum_index(item - 1, lane), kTileRows * sizeof(float));
        const float* vectors = shared_.vectors + g * loss_.gradient_vectors() * kBlock;
        loss_.gradient(vectors, block_of(own, kBlock));
        targets(items, i, g, [&](int64_t, int64_t lane, int64_t item) {
          for (int64_t t = 0; t < c_.users.steps; ++t) {
            float& logit = own.logits[t * kSums + sum_index(item, lane)];
            shared_.target_gradient[(g * c_.users.steps + t) * kBlock + lane] = logit - loss_.target_coefficient(vectors, lane, t);
            logit = 0;
          }
        });
        for (int64_t t = 0; t < c_.users.steps; ++t) {
          const int64_t b = (g - first) * c_.users.steps + t;
          pack_sums<kParts>(own.logits + t * kSums, own.item_logits + (i * s_.chunk_blocks + b) * kStrip,
                            own.row_logits + (b * s_.item_steps + i) * kStrip);
        }
      }
  }

  void multiply_into_items(const Items& items, int64_t first, int64_t end, const Own& own) const {
    for (int64_t i = 0; i < items.steps; ++i)
      for (int64_t w = 0; w < s_.width_steps; ++w) {
        const bfloat16* logits = own.item_logits + i * s_.chunk_blocks * kStrip;
        const bfloat16* states = shared_.state_strips + (w * s_.row_blocks + first * c_.users.steps) * kStrip;
        float* sums = own.grad_items + (i * s_.width_steps + w) * kSums;
        const int64_t depth = (end - first) * c_.users.steps;
        if (first == 0)
          multiply_strips<kParts, false>(logits, states, depth, sums);
        else
          multiply_strips<kParts, true>(logits, states, depth, sums);
      }
  }

  void multiply_into_rows(const Items& items, int64_t first, int64_t end, const Own& own) const {
    for (int64_t b = first * c_.users.steps; b < end * c_.users.steps; ++b)
      for (int64_t w = 0; w < s_.width_steps; ++w)
        multiply_strips<kParts, true>(own.across_strips + w * s_.item_steps * kStrip,
                                      own.row_logits + (b - first * c_.users.steps) * s_.item_steps * kStrip, items.steps,
                                      own.grad_rows + (b * s_.width_steps + w) * kSums);
  }

  void write_grad_items(const Items& items, const Own& own) const {
    // The share of the targets: users in the order of their targets, so each thread meets those of its items.
    for (int64_t u = items.users[0]; u < items.users[items.steps]; ++u)
      for (int64_t t = 0; t < c_.users.steps; ++t) {
        const int64_t item = c_.users.target[u] - items.first, b = u / kBlock * c_.users.steps + t;
        const float factor = shared_.target_gradient[b * kBlock + u % kBlock];
        for (int64_t column = 0; column < c_.width; column += kLanes) {
          float* sums = sums_of_item(own, item, column);
          store(sums, factor * load_values_of(c_.rows, u * c_.users.steps + t, column) + load(sums));
        }
      }
    constexpr int64_t kVector = kLanes * sizeof(float);
    const bool aligned = reinterpret_cast<uintptr_t>(c_.grad_table.values) % kVector == 0 &&
                         c_.grad_table.row_stride % kLanes == 0;
    for (int64_t item = 0; item < items.count; ++item) {
      float* row = c_.grad_table.values + (items.first + item) * c_.grad_table.row_stride;
      for (int64_t column = 0; column < c_.width; column += kLanes) {
        const vfloat sums = load(sums_of_item(own, item, column));
        if (aligned && column + kLanes <= c_.width)
          stream(row + column, sums);
        else
          store_part(row + column, sums, c_.width - column);
      }
    }
  }

  // kLanes values of a row, and zeros beyond its width.
  REAREC_INLINE vfloat load_values_of(const Matrix& m, int64_t row, int64_t column) const {
    const int64_t place = row * m.row_stride + column, count = c_.width - column;
    return m.is_bfloat16 ? load_part(static_cast<const bfloat16*>(m.values) + place, count)
                         : load_part(static_cast<const float*>(m.values) + place, count);
  }

  REAREC_INLINE float* sums_of_item(const Own& own, int64_t item, int64_t column) const {
    return own.grad_items + (item / kBlock * s_.width_steps + column / kBlock) * kSums +
           sum_index(item % kBlock, column % kBlock);
  }

  void write_grad_rows(int64_t b, int64_t threads) const {
    const int64_t user = b / c_.users.steps * kBlock, t = b % c_.users.steps;
    for (int64_t column = 0; column < c_.width; column += kTileRows)
      for (int64_t tile = 0; tile < 2; ++tile) {
        const int64_t offset = (b * s_.width_steps + column / kBlock) * kSums + sum_index(column % kBlock, tile * kTileRows);
        Line lines[kTileRows];
        for (int64_t i = 0; i < kTileRows; ++i) {
          alignas(64) float total[kTileRows];
          for (int64_t lane = 0; lane < kTileRows; lane += kLanes) {
            const int64_t place = offset + i * kTileRows + lane;
            vfloat sum = load(shared_.grad_rows[0] + place);
            for (int64_t other = 1; other < threads; ++other) sum += load(shared_.grad_rows[other] + place);
            store(total + lane, sum);
          }
          lines[i] = load_line(total);
        }
        transpose(lines);
        for (int64_t i = 0; i < kTileRows; ++i) {
          const int64_t lane = column_of(tile, i), u = user + lane;
          if (u >= c_.users.count) continue;
          alignas(64) float values[kTileRows];
          store_line(values, lines[i]);
          float* row = c_.grad_rows.values + (u * c_.users.steps + t) * c_.grad_rows.row_stride;
          for (int64_t n = 0; n < kTileRows && column + n < c_.width; n += kLanes) {
            vfloat total = load(values + n);
            if (c_.users.target[u] >= 0)
              total += shared_.target_gradient[b * kBlock + lane] * load_values_of(c_.table, c_.users.target[u], column + n);
            store_part(row + column + n, total, c_.width - column - n);
          }
        }
      }
  }

  int64_t first_block(Team team) const { return s_.item_blocks * team.rank / team.size; }
  int64_t end_block(Team team) const { return s_.item_blocks * (team.rank + 1) / team.size; }

  const SoftmaxOverItems& c_;
  const Loss& loss_;
  const Sizes s_;
  Cutter cut_;
  const Shared shared_;
};

void sweep(const SoftmaxOverItems& softmax, void* scratch, const Loss& loss) {
  if (softmax.two_parts)
    Sweep<2>(softmax, scratch, loss).run();
  else
    Sweep<1>(softmax, scratch, loss).run();
}

}  // namespace
}  // namespace rearec::tiles
