// How a sweep over a catalog (sweep.h) cuts its work, and where in the scratch its strips and sums lie.
#pragma once
#include "cpu/tiles/losses.h"
#include "cpu/tiles/strips.h"

namespace rearec::tiles {
namespace {

constexpr int64_t kItemsPerBlock = 256, kRowsPerChunk = 512;

struct Sizes {
  int64_t parts, step;         // of a strip
  int64_t width_steps;         // of 32 values
  int64_t groups, row_blocks;  // of 32 users; of 32 rows
  int64_t item_steps;          // of 32 items, in a block
  int64_t item_blocks;
  int64_t chunk_groups, chunk_blocks;
  int64_t threads;

  explicit Sizes(const SoftmaxOverItems& c) {
    parts = c.two_parts ? 2 : 1;
    step = 2 * parts * kTileValues;
    width_steps = ceil_divide(c.width, kTileDepth);
    groups = ceil_divide(c.users.count, kBlock);
    row_blocks = groups * c.users.steps;
    const int64_t steps = ceil_divide(c.items, kBlock);
    item_steps = smaller(kItemsPerBlock / kBlock / parts, ceil_divide(steps, c.threads));
    item_blocks = ceil_divide(steps, item_steps);
    chunk_groups = kRowsPerChunk / kBlock / parts / c.users.steps;
    chunk_groups = chunk_groups < 1 ? 1 : smaller(chunk_groups, groups);
    chunk_blocks = chunk_groups * c.users.steps;
    threads = smaller(c.threads, item_blocks);
  }
};

// Scratch, cut up; from address 0 on it only says how much is needed.
class Cutter {
 public:
  explicit Cutter(void* scratch) : next_(static_cast<char*>(scratch)) {}
  template <class T>
  T* take(int64_t count) {
    char* const taken = next_;
    next_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return reinterpret_cast<T*>(taken);
  }
  char* next() const { return next_; }

 private:
  char* next_;
};

struct Shared {
  bfloat16* row_strips;    // [row block]: second operand of the logits
  bfloat16* state_strips;  // [32 of the width], depth over all row blocks: second operand of the table's gradient
  float* vectors;          // [group][loss.gradient_vectors()][32]: what the gradient pass needs per row
  float* target_gradient;  // [row block][32]: at the logit of the target, which the products leave out
  float** grad_rows;       // [thread]

  Shared(const SoftmaxOverItems& c, const Sizes& s, int64_t vectors_per_group, Cutter& cut) {
    row_strips = cut.take<bfloat16>(s.row_blocks * s.width_steps * s.step);
    state_strips = cut.take<bfloat16>(s.width_steps * s.row_blocks * s.step);
    vectors = cut.take<float>(s.groups * vectors_per_group * kBlock);
    target_gradient = cut.take<float>(s.row_blocks * kBlock);
    grad_rows = cut.take<float*>(s.threads);
  }
};

struct Own {                // of a thread
  float* running;           // [group][loss.running_vectors()][32]: statistics so far
  float* grad_rows;         // [row block][32 of the width]: sums with the width in rows
  bfloat16* item_strips;    // [32 items]: first operand of the logits
  bfloat16* across_strips;  // [32 of the width], depth over the items: first operand of the rows' gradient
  bfloat16* item_logits;    // [32 items], depth over the chunk's row blocks: first operand of the table's gradient
  bfloat16* row_logits;     // [row block], depth over the items: second operand of the rows' gradient
  float* grad_items;        // [32 items][32 of the width]: sums
  float* logits;            // [step]: sums, 32 items by a group

  Own(const SoftmaxOverItems& c, const Sizes& s, int64_t running_per_group, Cutter& cut) {
    running = cut.take<float>(s.groups * running_per_group * kBlock);
    grad_rows = cut.take<float>(s.row_blocks * s.width_steps * kSums);
    item_strips = cut.take<bfloat16>(s.item_steps * s.width_steps * s.step);
    across_strips = cut.take<bfloat16>(s.width_steps * s.item_steps * s.step);
    item_logits = cut.take<bfloat16>(s.item_steps * s.chunk_blocks * s.step);
    row_logits = cut.take<bfloat16>(s.chunk_blocks * s.item_steps * s.step);
    grad_items = cut.take<float>(s.item_steps * s.width_steps * kSums);
    logits = cut.take<float>(c.users.steps * kSums);
  }
};

}  // namespace
}  // namespace rearec::tiles
