// Cross-entropy over a catalog by tiles.
#include "cpu/tiles/sweep.h"

namespace rearec::tiles {
namespace {

class CrossEntropyLoss final : public Loss {
 public:
  explicit CrossEntropyLoss(const CrossEntropy& a) : a_(a), steps_(a.softmax.steps) {}

  // Per step the shift, the norm and its rest; the shift, the coefficient over the norm, and the coefficient.
  int64_t running_vectors() const override { return 3 * steps_; }
  int64_t gradient_vectors() const override { return 3 * steps_; }

  void begin(float* running) const override {
    for (int64_t t = 0; t < steps_; ++t, running += 3 * kBlock) {
      for (int64_t lane = 0; lane < kBlock; ++lane) running[lane] = -kInfinity;
      std::memset(running + kBlock, 0, 2 * kBlock * sizeof(float));
    }
  }

  void add(const float* logits, int items, float* running) const override {
    for (int64_t t = 0; t < steps_; ++t)
      for (int64_t lane = 0; lane < kBlock; lane += kLanes) {
        const float* block = logits + t * kSums + sum_index(0, lane);
        add_block(block, items, a_.inverse_temperature[t], running + 3 * kBlock * t + lane);
      }
  }

  void target(int64_t user, const float* logit) const override {
    for (int64_t t = 0; t < steps_; ++t) a_.target_logit[user * steps_ + t] = logit[t * kSums];
  }

  void merge(int64_t group, float* const* running, int64_t threads) const override {
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

  void prepare(int64_t group, float* vectors) const override {
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

  void gradient(const float* vectors, float* logits) const override {
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

  float target_coefficient(const float* vectors, int64_t lane, int64_t t) const override {
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
  return c.two_parts ? Sweep<2>::bytes(c, running, vectors) : Sweep<1>::bytes(c, running, vectors);
}

void cross_entropy(const CrossEntropy& a) { sweep(a.softmax, a.scratch, CrossEntropyLoss(a)); }

}  // namespace

const LossEngine losses = {scratch_bytes, cross_entropy, ensemble};

}  // namespace REAREC_ENGINE

}  // namespace rearec::tiles
