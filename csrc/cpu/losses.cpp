// Softmax losses over a chunk of logits in memory: one walk over the items for statistics, one that leaves the gradient.
//
// A chunk has a row for each item, with its logits for all steps and users. Each thread has a part of the items, in
// blocks of rows that stay in the first-level cache.
#include "cpu/losses.h"

#include "cpu/cross_entropy.h"
#include "cpu/ensemble.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace rearec {
namespace {

constexpr int64_t kMostItems = 512, kBlockFloats = 6144;  // three quarters of a first-level cache

REAREC_INLINE vfloat rounded_to_bfloat16(vfloat v) {
  const vuint bits = (vuint)v;
  const vuint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  return v != v ? v : (vfloat)rounded;
}

class ChunkPasses {
 public:
  ChunkPasses(const LogitChunk& chunk, const Loss& loss)
      : c_(chunk),
        loss_(loss),
        groups_(ceil_divide(chunk.users.count, kGroup)),
        items_(items_of_block(chunk)),
        blocks_(ceil_divide(chunk.items, items_)),
        threads_(smaller(chunk.threads, blocks_)),
        running_(groups_ * loss.running_vectors() * kGroup),
        running_of_all_(threads_ * running_),
        vectors_of_all_(groups_ * loss.gradient_vectors() * kGroup) {}

  void run() const {
    in_threads(static_cast<int>(threads_), [&](int rank, int size) {
      const Scratch rest(c_.users.steps * items_ * kLanes);
      std::memset(rest.data, 0, static_cast<size_t>(c_.users.steps * items_ * kLanes) * sizeof(float));
      const int64_t first = blocks_ * rank / size, end = blocks_ * (rank + 1) / size;
      if (c_.statistics) {
        statistics(first, end, running_of_all_.data + rank * running_, rest.data);
#pragma omp barrier
      }
      for (int64_t g = rank; g < groups_; g += size) {
        if (c_.statistics) loss_.merge(g, {running_of_all_.data, running_, size});
        if (c_.gradient) loss_.prepare(g, vectors_of(g));
      }
      if (c_.gradient) {
#pragma omp barrier
        gradient(first, end, rest.data);
      }
    });
  }

 private:
  static int64_t items_of_block(const LogitChunk& chunk) {
    const int64_t of_cache = kBlockFloats / (chunk.users.steps * chunk.users.count) / kSixteen * kSixteen;
    const int64_t of_thread = round_up(ceil_divide(chunk.items, chunk.threads), kSixteen);
    return of_cache < kSixteen ? kSixteen : smaller(smaller(of_cache, of_thread), kMostItems);
  }

  float* vectors_of(int64_t g) const { return vectors_of_all_.data + g * loss_.gradient_vectors() * kGroup; }
  int64_t row_stride() const { return c_.users.steps * c_.users.count; }
  float* logit(int64_t item, int64_t user) const { return c_.values + item * row_stride() + user; }

  // A block of logits that lies in the chunk. Of less than a vector of users, their neighbours are in its other lanes.
  LogitBlock block_of(int64_t b, int64_t user, int lanes) const {
    const int items = static_cast<int>(smaller(items_, c_.items - b * items_));
    return {logit(b * items_, user), items, lanes, c_.users.count, row_stride(), kSixteen * row_stride(), kSixteen};
  }

  // visit(block, lane) for a block of items and a group, `lane` being where in the group the block's users begin: whole
  // vectors of them, then what is left, which is written to by way of a copy.
  template <bool kWrites, class Visit>
  REAREC_INLINE void visit_blocks(int64_t b, int64_t g, float* rest, const Visit& visit) const {
    const int64_t user = g * kGroup, count = smaller(kGroup, c_.users.count - user), whole = count / kLanes * kLanes;
    if (whole > 0) visit(block_of(b, user, static_cast<int>(whole)), 0);
    if (whole == count) return;
    const LogitBlock left = block_of(b, user + whole, kLanes);
    if (!kWrites && !c_.group) return visit(left, whole);
    const LogitBlock copy{rest, left.items, kLanes, items_ * kLanes, kLanes, kSixteen * kLanes, 0};
    copy_users(left, copy, count - whole);
    visit(copy, whole);
    if (kWrites) copy_users(copy, left, count - whole);
  }

  // Fewer than a vector. Their neighbours may be another thread's.
  REAREC_INLINE void copy_users(const LogitBlock& from, const LogitBlock& to, int64_t count) const {
    for (int64_t i = 0; i < from.items; ++i)
      for (int64_t t = 0; t < c_.users.steps; ++t) {
        const float* const source = from.at(t, i, 0);
        float* const target = to.at(t, i, 0);
        for (int64_t lane = 0; lane < count; ++lane) target[lane] = source[lane];
      }
  }

  REAREC_INLINE void mask(const LogitBlock& block, int64_t b, int64_t first_user) const {
    if (c_.group) mask_groups(block, c_.group, b * items_, first_user, c_.users);
  }

  // visit(user) where the target is among the items of a block.
  template <class Visit>
  REAREC_INLINE void for_targets(int64_t b, const Visit& visit) const {
    const int64_t first = b * items_, end = first + items_;
    for (int64_t user = 0; user < c_.users.count; ++user)
      if (c_.users.target[user] >= first && c_.users.target[user] < end) visit(user);
  }

  // Reads a block in the order of memory, in which the processor fetches what comes next: those of groups are pieces of
  // rows.
  void fetch(int64_t b) const {
    const float* const values = logit(b * items_, 0);
    const int64_t count = smaller(items_, c_.items - b * items_) * row_stride();
    for (int64_t n = 0; n < count; n += 64 / sizeof(float)) asm volatile("" : : "r"(values[n]));
  }

  void statistics(int64_t first, int64_t end, float* running, float* rest) const {
    const int64_t of_group = loss_.running_vectors() * kGroup;
    for (int64_t g = 0; g < groups_; ++g) loss_.begin(running + g * of_group);
    for (int64_t b = first; b < end; ++b) {
      fetch(b);
      for_targets(b, [&](int64_t user) { loss_.target(user, logit(c_.users.target[user], user), c_.users.count); });
      for (int64_t g = 0; g < groups_; ++g)
        visit_blocks<false>(b, g, rest, [&](const LogitBlock& block, int64_t lane) {
          mask(block, b, g * kGroup + lane);
          loss_.add(block, running + g * of_group + lane);
        });
    }
  }

  void gradient(int64_t first, int64_t end, float* rest) const {
    for (int64_t b = first; b < end; ++b) {
      fetch(b);
      for (int64_t g = 0; g < groups_; ++g)
        visit_blocks<true>(b, g, rest, [&](const LogitBlock& block, int64_t lane) {
          mask(block, b, g * kGroup + lane);
          loss_.gradient(vectors_of(g) + lane, block);
        });
      for_targets(b, [&](int64_t user) {
        const float* vectors = vectors_of(user / kGroup);
        for (int64_t t = 0; t < c_.users.steps; ++t)
          logit(c_.users.target[user], user)[t * c_.users.count] -= loss_.target_coefficient(vectors, user % kGroup, t);
      });
      if (c_.round_to_bfloat16) round(b);
    }
  }

  void round(int64_t b) const {
    float* const values = logit(b * items_, 0);
    const int64_t count = smaller(items_, c_.items - b * items_) * row_stride();
    for (int64_t n = 0; n < count; n += kLanes)
      store_part(values + n, rounded_to_bfloat16(load_part(values + n, count - n)), count - n);
  }

  const LogitChunk& c_;
  const Loss& loss_;
  const int64_t groups_, items_, blocks_, threads_, running_;
  const Scratch running_of_all_, vectors_of_all_;
};

void pass_over(const LogitChunk& chunk, const Loss& loss) { ChunkPasses(chunk, loss).run(); }

void cross_entropy(const OfChunk<CrossEntropy>& a) { pass_over(a.chunk, CrossEntropyLoss(a.chunk.users, a.loss)); }

void ensemble(const OfChunk<Ensemble>& a) {
  with_ensemble_loss(a.chunk.users, a.loss, [&](const Loss& loss) { pass_over(a.chunk, loss); });
}

}  // namespace

namespace REAREC_ISA {
const LossKernels losses = {cross_entropy, ensemble};
}

}  // namespace rearec
