// Cross-entropy over a catalog (ReaRec, sections 3.3 and 3.4).
#pragma once
#include "cpu/loss.h"

namespace rearec {
namespace {

class CrossEntropyLoss final : public Loss {
 public:
  CrossEntropyLoss(const Users& users, const CrossEntropy& a) : users_(users), a_(a) {}

  // Per step the shift, the norm and its rest; the shift, the coefficient over the norm, and the coefficient.
  int64_t running_vectors() const override { return 3 * users_.steps; }
  int64_t gradient_vectors() const override { return 3 * users_.steps; }

  void begin(float* running) const override {
    for (int64_t t = 0; t < users_.steps; ++t, running += 3 * kGroup) {
      for (int64_t lane = 0; lane < kGroup; ++lane) running[lane] = -kInfinity;
      std::memset(running + kGroup, 0, 2 * kGroup * sizeof(float));
    }
  }

  void add(const LogitBlock& block, float* running) const override {
    for (int64_t t = 0; t < users_.steps; ++t)
      for (int64_t lane = 0; lane < block.lanes; lane += kLanes)
        add_lanes(block, block.at(t, 0, lane), a_.inverse_temperature[t], running + 3 * kGroup * t + lane);
  }

  void target(int64_t user, const float* logit, int64_t step_stride) const override {
    for (int64_t t = 0; t < users_.steps; ++t) a_.target_logit[user * users_.steps + t] = logit[t * step_stride];
  }

  void merge(int64_t group, const Running& running) const override {
    for (int64_t lane = 0; lane < kGroup && group * kGroup + lane < users_.count; ++lane)
      for (int64_t t = 0; t < users_.steps; ++t) {
        const int64_t row = (group * kGroup + lane) * users_.steps + t, place = (group * users_.steps + t) * 3 * kGroup + lane;
        const float shift = merged_shift(running, place), scale = a_.inverse_temperature[t];
        a_.shift[row] = shift;
        a_.norm[row] = static_cast<float>(merged_sum(running, place, place + kGroup, shift, scale) +
                                          merged_sum(running, place, place + 2 * kGroup, shift, scale));
        a_.target_logit[row] = users_.target[group * kGroup + lane] < 0
                                   ? 0 : (a_.target_logit[row] - shift) * a_.inverse_temperature[t];
      }
  }

  void prepare(int64_t group, float* vectors) const override {
    for (int64_t t = 0; t < users_.steps; ++t, vectors += 3 * kGroup)
      for (int64_t lane = 0; lane < kGroup; ++lane) {
        const int64_t user = group * kGroup + lane, row = user * users_.steps + t;
        const bool there = user < users_.count;
        const float coefficient = there ? a_.coefficient[row] * a_.inverse_temperature[t] : 0;
        vectors[lane] = there ? a_.shift[row] : 0;
        vectors[kGroup + lane] = there ? coefficient / a_.norm[row] : 0;
        vectors[2 * kGroup + lane] = coefficient;
      }
  }

  void gradient(const float* vectors, const LogitBlock& block) const override {
    for (int64_t t = 0; t < users_.steps; ++t)
      for (int64_t lane = 0; lane < block.lanes; lane += kLanes) {
        const float* step = vectors + 3 * kGroup * t + lane;
        const vfloat shift = load(step), weight = load(step + kGroup);
        const vfloat scale = broadcast(a_.inverse_temperature[t]);
        block.for_items(block.at(t, 0, lane), [&](float* row, int) {
          store(row, weight * exp_or_zero((load(row) - shift) * scale));
        });
      }
  }

  float target_coefficient(const float* vectors, int64_t lane, int64_t t) const override {
    return vectors[(3 * t + 2) * kGroup + lane];
  }

 private:
  // running: shift, norm and its rest.
  REAREC_INLINE static void add_lanes(const LogitBlock& block, float* first, float inverse_temperature, float* running) {
    vfloat m[4], total[4];
    for (int j = 0; j < 4; ++j) {
      m[j] = broadcast(-kInfinity);
      total[j] = vfloat{};
    }
    block.for_items(first, [&](const float* row, int j) { m[j] = larger(load(row), m[j]); });
    const vfloat before = load(running);
    const vfloat now = larger(larger(larger(m[0], m[1]), larger(m[2], m[3])), before);
    // As long as all logits are -infinity (masked), 0 stands for their maximum.
    const vfloat reference = now == -kInfinity ? vfloat{} : now;
    block.for_items(first, [&](const float* row, int j) {
      total[j] += exp_or_zero((load(row) - reference) * inverse_temperature);
    });
    store(running, now);
    add_to_sum(running + kGroup, running + 2 * kGroup, exp_or_zero((before - reference) * inverse_temperature),
               (total[0] + total[1]) + (total[2] + total[3]));
  }

  const Users users_;
  const CrossEntropy a_;
};

}  // namespace
}  // namespace rearec
