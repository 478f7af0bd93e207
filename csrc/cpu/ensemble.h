// Ensemble reasoning loss over a catalog (ReaRec, section 3.3).
#pragma once
#include "cpu/loss.h"
#include "kernel_limits.h"

namespace rearec {
namespace {

// The steps of one user: T of them, or as many as `steps` says when T is 0.
template <int T>
struct Steps {
  static constexpr int kMax = T ? T : kMaxEnsembleStates;
  int steps;
  REAREC_INLINE int count() const { return T ? T : steps; }
};

// The logits of all steps in kLanes columns.
template <int T>
struct Columns {
  vfloat z[Steps<T>::kMax];

  REAREC_INLINE void load(const float* rows, int64_t stride, const Steps<T>& steps) {
    for (int t = 0; t < steps.count(); ++t) z[t] = rearec::load(rows + t * stride);
  }
  REAREC_INLINE vfloat mean(const Steps<T>& steps) const {
    vfloat total{};
    for (int t = 1; t < steps.count(); ++t) total += z[t] - z[0];
    return z[0] + total * (1.0f / static_cast<float>(steps.count()));
  }
  // Per step the sum of z_i - z_j over the other steps j (official form) or over the later ones (paper's), by way of
  // the differences to step 0: steps that agree give exact zeros.
  template <bool kPaper>
  REAREC_INLINE void spread(vfloat* u, const Steps<T>& steps) const {
    vfloat total{};
    for (int t = steps.count() - 1; t >= 0; --t) {
      u[t] = z[t] - z[0];
      if (kPaper) {
        const vfloat later = total;
        total += u[t];
        u[t] = u[t] * static_cast<float>(steps.count() - 1 - t) - later;
      } else {
        total += u[t];
      }
    }
    if (!kPaper)
      for (int t = 0; t < steps.count(); ++t) u[t] = u[t] * static_cast<float>(steps.count()) - total;
  }
};

// T as in Columns: 0 stands for any number of steps.
template <int T, bool kPaper>
class EnsembleLoss final : public Loss {
 public:
  EnsembleLoss(const Users& users, const Ensemble& a) : users_(users), a_(a), steps_{static_cast<int>(users.steps)} {}

  // The shift of every step and of their mean, then the norms, then the rests of these, then the spreads.
  int64_t running_vectors() const override { return 4 * steps_.count() + 3; }
  // Shifts, then the weight of the mean's probability and the coefficient, then per step 1 / norm and mean spread.
  int64_t gradient_vectors() const override { return 3 * steps_.count() + 3; }

  void begin(float* running) const override {
    for (int64_t i = 0; i < (steps_.count() + 1) * kGroup; ++i) running[i] = -kInfinity;
    std::memset(running + (steps_.count() + 1) * kGroup, 0,
                static_cast<size_t>((3 * steps_.count() + 2) * kGroup) * sizeof(float));
  }

  void add(const LogitBlock& block, float* running) const override {
    for (int64_t lane = 0; lane < block.lanes; lane += kLanes) add_lanes(block, block.at(0, 0, lane), running + lane);
  }

  void target(int64_t user, const float* logit, int64_t step_stride) const override {
    float total = 0;
    for (int t = 1; t < steps_.count(); ++t) total += logit[t * step_stride] - logit[0];
    a_.target_logit[user] = logit[0] + total / static_cast<float>(steps_.count());
  }

  void merge(int64_t group, const Running& running) const override {
    const int64_t count = steps_.count(), base = group * running_vectors() * kGroup;
    for (int64_t lane = 0; lane < kGroup && group * kGroup + lane < users_.count; ++lane) {
      const int64_t user = group * kGroup + lane;
      for (int64_t t = 0; t <= count; ++t) {
        const int64_t place = base + t * kGroup + lane;
        const float shift = merged_shift(running, place);
        const auto sum = [&](int64_t vectors) {
          return merged_sum(running, place, place + vectors * kGroup, shift, a_.inverse_temperature);
        };
        a_.shift[user * (count + 1) + t] = shift;
        a_.norm[user * (count + 1) + t] = static_cast<float>(sum(count + 1) + sum(2 * count + 2));
        if (t < count) a_.spread[user * count + t] = static_cast<float>(sum(3 * count + 3));
      }
      a_.target_logit[user] = users_.target[user] < 0 ? 0
          : (a_.target_logit[user] - a_.shift[user * (count + 1) + count]) * a_.inverse_temperature;
    }
  }

  void prepare(int64_t group, float* vectors) const override {
    const int64_t count = steps_.count();
    // Every step has an equal share of the gradient of the mean state's cross-entropy.
    const float coefficient = a_.cross_entropy_coefficient * a_.inverse_temperature / static_cast<float>(count);
    for (int64_t lane = 0; lane < kGroup; ++lane) {
      const int64_t user = group * kGroup + lane;
      const bool there = user < users_.count;
      float* place = vectors + lane;
      for (int64_t t = 0; t <= count; ++t, place += kGroup) *place = there ? a_.shift[user * (count + 1) + t] : 0;
      *place = there ? coefficient / a_.norm[user * (count + 1) + count] : 0;
      place[kGroup] = coefficient;
      place += kGroup;
      for (int64_t t = 0; t < count; ++t) {
        const float inverse_norm = there ? 1.0f / a_.norm[user * (count + 1) + t] : 0;
        place[(1 + t) * kGroup] = inverse_norm;
        place[(1 + count + t) * kGroup] = there ? a_.spread[user * count + t] * inverse_norm : 0;
      }
    }
  }

  void gradient(const float* vectors, const LogitBlock& block) const override {
    for (int64_t lane = 0; lane < block.lanes; lane += kLanes)
      gradient_of_lanes(vectors + lane, block, block.at(0, 0, lane));
  }

  float target_coefficient(const float* vectors, int64_t lane, int64_t) const override {
    return vectors[(steps_.count() + 2) * kGroup + lane];
  }

 private:
  REAREC_INLINE void add_lanes(const LogitBlock& block, float* first, float* running) const {
    const int count = steps_.count();
    const float scale = a_.inverse_temperature;
    Columns<T> columns;
    vfloat shift[Steps<T>::kMax + 1], norm[Steps<T>::kMax + 1], spread[Steps<T>::kMax], u[Steps<T>::kMax];
    for (int t = 0; t <= count; ++t) shift[t] = broadcast(-kInfinity);
    block.for_items(first, [&](const float* row, int) {
      columns.load(row, block.step_stride, steps_);
      for (int t = 0; t < count; ++t) shift[t] = larger(columns.z[t], shift[t]);
      shift[count] = larger(columns.mean(steps_), shift[count]);
    });
    vfloat factor[Steps<T>::kMax + 1];
    for (int t = 0; t <= count; ++t) {
      const vfloat before = load(running + t * kGroup);
      shift[t] = larger(shift[t], before);
      store(running + t * kGroup, shift[t]);
      factor[t] = exp_or_zero((before - shift[t]) * scale);
      norm[t] = vfloat{};
      if (t < count) spread[t] = vfloat{};
    }
    block.for_items(first, [&](const float* row, int) {
      columns.load(row, block.step_stride, steps_);
      columns.template spread<kPaper>(u, steps_);
      for (int t = 0; t <= count; ++t) {
        const vfloat e = exp_or_zero(((t < count ? columns.z[t] : columns.mean(steps_)) - shift[t]) * scale);
        norm[t] += e;
        if (t < count) spread[t] += e * u[t];
      }
    });
    float* norms = running + (count + 1) * kGroup;
    float* spreads = norms + 2 * (count + 1) * kGroup;
    for (int t = 0; t <= count; ++t)
      add_to_sum(norms + t * kGroup, norms + (count + 1 + t) * kGroup, factor[t], norm[t]);
    for (int t = 0; t < count; ++t) store(spreads + t * kGroup, load(spreads + t * kGroup) * factor[t] + spread[t]);
  }

  REAREC_INLINE void gradient_of_lanes(const float* vectors, const LogitBlock& block, float* first) const {
    const int count = steps_.count();
    const float scale = a_.inverse_temperature, kl = a_.kl_coefficient * scale;
    vfloat shift[Steps<T>::kMax + 1], inverse_norm[Steps<T>::kMax], mean_spread[Steps<T>::kMax], u[Steps<T>::kMax];
    for (int t = 0; t <= count; ++t) shift[t] = load(vectors + t * kGroup);
    const vfloat mean_weight = load(vectors + (count + 1) * kGroup);
    for (int t = 0; t < count; ++t) {
      inverse_norm[t] = load(vectors + (count + 3 + t) * kGroup);
      mean_spread[t] = load(vectors + (2 * count + 3 + t) * kGroup);
    }
    Columns<T> columns;
    block.for_items(first, [&](float* row, int) {
      columns.load(row, block.step_stride, steps_);
      columns.template spread<kPaper>(u, steps_);
      const vfloat shared = mean_weight * exp_or_zero((columns.mean(steps_) - shift[count]) * scale);
      vfloat earlier{};  // probabilities of the earlier steps
      for (int t = 0; t < count; ++t) {
        const vfloat p = exp_or_zero((columns.z[t] - shift[t]) * scale) * inverse_norm[t];
        vfloat step = p * ((u[t] - mean_spread[t]) * scale);
        if (kPaper) {
          step += p * static_cast<float>(t) - earlier;
          earlier += p;
        }
        store(row + t * block.step_stride, shared + kl * step);
      }
    });
  }

  const Users users_;
  const Ensemble a_;
  const Steps<T> steps_;
};

template <int T, class Run>
void with_form(const Users& users, const Ensemble& a, const Run& run) {
  if (a.paper_form)
    run(EnsembleLoss<T, true>(users, a));
  else
    run(EnsembleLoss<T, false>(users, a));
}

// run(loss), once: a function of the loss as such, so that there is one of it.
template <class Run>
void with_ensemble_loss(const Users& users, const Ensemble& a, const Run& run) {
  switch (users.steps) {
    case 1: return with_form<1>(users, a, run);
    case 2: return with_form<2>(users, a, run);
    case 3: return with_form<3>(users, a, run);
    case 4: return with_form<4>(users, a, run);
    case 5: return with_form<5>(users, a, run);
    case 6: return with_form<6>(users, a, run);
    default: return with_form<0>(users, a, run);
  }
}

}  // namespace
}  // namespace rearec
