// Cross-entropy over a catalog by tiles: what the sweep asks of a loss.
#include "cpu/tiles/sweep.h"

namespace rearec::tiles {
namespace {

class CrossEntropyLoss {
 public:
  explicit CrossEntropyLoss(const CrossEntropy& a) : a_(a), steps_(a.softmax.steps) {}

  // Vectors of 32 floats, one for each user of a group: running statistics of a thread (per step the shift, the norm and
  // its rest), and what `gradient` reads.
  int64_t running_vectors() const { return 3 * steps_; }
  int64_t gradient_vectors() const { return 3 * steps_; }

  // Statistics of nothing, for one group.
  void begin(float* running) const {
    for (int64_t t = 0; t < steps_; ++t, running += 3 * kBlock) {
      for (int64_t lane = 0; lane < kBlock; ++lane) running[lane] = -kInfinity;
      std::memset(running + kBlock, 0, 2 * kBlock * sizeof(float));
    }
  }

  // Adds the first `items` of a block of logits (one after the other, a block for every step).
  REAREC_INLINE void add(const float* logits, int items, float* running) const {
    for (int64_t t = 0; t < steps_; ++t)
      for (int64_t lane = 0; lane < kBlock; lane += kLanes) {
        const float* block = logits + t * kSums + sum_index(0, lane);
        add_block(block, items, a_.inverse_temperature[t], running + 3 * kBlock * t + lane);
      }
  }

  // The logit of a user's target: in the block of the first step, the others' follow.
  REAREC_INLINE void target(int64_t user, const float* logit) const {
    for (int64_t t = 0; t < steps_; ++t) a_.target_logit[user * steps_ + t] = logit[t * kSums];
  }

  // The statistics of all threads as those of the loss.
  void merge(int64_t group, float* const* running, int64_t threads) const {
    for (int64_t lane = 0; lane < kBlock && group * kBlock + lane < a_.softmax.users; ++lane)
      for (int64_t t = 0; t < steps_; ++t) {
        const int64_t row = (group * kBlock + lane) * steps_ + t, place = (group * steps_ + t) * 3 * kBlock + lane;
        const float shift = merged_shift(running, threads, place), scale = a_.inverse_temperature[t];
        a_.shift[row] = shift;
        a_.norm[row] = static_cast<float>(merged_sum(running, threads, place, place + kBlock, shift, scale) +
                                          merged_sum(running, threads, place, place + 2 * kBlock, shift, scale));
        a_.target_logit[row] = a_.softmax.target[group * kBlock + lane] < 0
                                   ? 0 : (a_.target_logit[row] - shift) * a_.inverse_temperature[t];
      }
  }

  // Vectors for `gradient`, per step: the shift, the coefficient over the norm, and the coefficient.
  void prepare(int64_t group, float* vectors) const {
    for (int64_t t = 0; t < steps_; ++t, vectors += 3 * kBlock)
      for (int64_t lane = 0; lane < kBlock; ++lane) {
        const int64_t user = group * kBlock + lane, row = user * steps_ + t;
        const bool there = user < a_.softmax.users;
        const float coefficient = there ? a_.coefficient[row] * a_.inverse_temperature[t] : 0;
        vectors[lane] = there ? a_.shift[row] : 0;
        vectors[kBlock + lane] = there ? coefficient / a_.norm[row] : 0;
        vectors[2 * kBlock + lane] = coefficient;
      }
  }

  // A block of logits into the gradient with respect to them, without the share of the target.
  REAREC_INLINE void gradient(const float* vectors, float* logits) const {
    for (int64_t t = 0; t < steps_; ++t)
      for (int64_t lane = 0; lane < kBlock; lane += kLanes) {
        float* block = logits + t * kSums + sum_index(0, lane);
        const float* step = vectors + 3 * kBlock * t + lane;
        const vfloat shift = load(step), weight = load(step + kBlock);
        const vfloat scale = broadcast(a_.inverse_temperature[t]);
        for_rows(block, kBlock, [&](float* row, int) {
          store(row, weight * exp_or_zero((load(row) - shift) * scale));
        });
      }
  }

  // What the gradient at the logit of the target has less. As read from memory: a product in place of it would be
  // contracted with the subtraction, and leave a rounding where the difference is 0.
  REAREC_INLINE float target_coefficient(const float* vectors, int64_t lane, int64_t t) const {
    return vectors[(3 * t + 2) * kBlock + lane];
  }

 private:
  // running: shift, norm and its rest.
  REAREC_INLINE static void add_block(const float* block, int items, float inverse_temperature, float* running) {
    vfloat m[4], total[4];
    for (int j = 0; j < 4; ++j) {
      m[j] = broadcast(-kInfinity);
      total[j] = vfloat{};
    }
    for_rows(block, items, [&](const float* row, int j) { m[j] = larger(load(row), m[j]); });
    const vfloat before = load(running);
    const vfloat now = larger(larger(larger(m[0], m[1]), larger(m[2], m[3])), before);
    // As long as all logits are -infinity (masked), 0 stands for their maximum.
    const vfloat reference = now == -kInfinity ? vfloat{} : now;
    for_rows(block, items, [&](const float* row, int j) {
      total[j] += exp_or_zero((load(row) - reference) * inverse_temperature);
    });
    store(running, now);
    add_to_sum(running + kBlock, running + 2 * kBlock, exp_or_zero((before - reference) * inverse_temperature),
               (total[0] + total[1]) + (total[2] + total[3]));
  }

  const CrossEntropy& a_;
  const int64_t steps_;
};

}  // namespace

namespace REAREC_ENGINE {

void ensemble(const Ensemble& a);  // ensemble.cpp

namespace {

size_t scratch_bytes(const SoftmaxOverItems& c) {
  const int64_t running = 4 * c.steps + 3, vectors = 3 * c.steps + 3;  // of the ensemble, which has more
  return c.two_parts ? Sweep<2, CrossEntropyLoss>::bytes(c, running, vectors)
                     : Sweep<1, CrossEntropyLoss>::bytes(c, running, vectors);
}

void cross_entropy(const CrossEntropy& a) { sweep(a.softmax, a.scratch, CrossEntropyLoss(a)); }

}  // namespace

const LossEngine losses = {scratch_bytes, cross_entropy, ensemble};

}  // namespace REAREC_ENGINE

}  // namespace rearec::tiles
