// Ensemble reasoning loss over a catalog by tiles.
#include "cpu/tiles/sweep.h"

namespace rearec::tiles {
namespace {

// T as in Columns: 0 stands for any number of steps.
template <int T, bool kPaper>
class EnsembleLoss final : public Loss {
 public:
  explicit EnsembleLoss(const Ensemble& a) : a_(a), steps_{static_cast<int>(a.softmax.steps)} {}

  // The shift of every step and of their mean, then the norms, then the rests of these, then the spreads.
  int64_t running_vectors() const override { return 4 * steps_.count() + 3; }
  // Shifts, then the weight of the mean's probability and the coefficient, then per step 1 / norm and mean spread.
  int64_t gradient_vectors() const override { return 3 * steps_.count() + 3; }

  void begin(float* running) const override {
    for (int64_t i = 0; i < (steps_.count() + 1) * kBlock; ++i) running[i] = -kInfinity;
    std::memset(running + (steps_.count() + 1) * kBlock, 0,
                static_cast<size_t>((3 * steps_.count() + 2) * kBlock) * sizeof(float));
  }

  void add(const float* logits, int items, float* running) const override {
    for (int64_t lane = 0; lane < kBlock; lane += kLanes)
      add_lanes(logits + sum_index(0, lane), items, running + lane);
  }

  void target(int64_t user, const float* logit) const override {
    float total = 0;
    for (int t = 1; t < steps_.count(); ++t) total += logit[t * kSums] - logit[0];
    a_.target_logit[user] = logit[0] + total / static_cast<float>(steps_.count());
  }

  void merge(int64_t group, float* const* running, int64_t threads) const override {
    const int64_t count = steps_.count(), base = group * running_vectors() * kBlock;
    for (int64_t lane = 0; lane < kBlock && group * kBlock + lane < a_.softmax.users; ++lane) {
      const int64_t user = group * kBlock + lane;
      for (int64_t t = 0; t <= count; ++t) {
        const int64_t place = base + t * kBlock + lane;
        const float shift = merged_shift(running, threads, place);
        const auto sum = [&](int64_t vectors) {
          return merged_sum(running, threads, place, place + vectors * kBlock, shift, a_.inverse_temperature);
        };
        a_.shift[user * (count + 1) + t] = shift;
        a_.norm[user * (count + 1) + t] = static_cast<float>(sum(count + 1) + sum(2 * count + 2));
        if (t < count) a_.spread[user * count + t] = static_cast<float>(sum(3 * count + 3));
      }
      a_.target_logit[user] = a_.softmax.target[user] < 0 ? 0
          : (a_.target_logit[user] - a_.shift[user * (count + 1) + count]) * a_.inverse_temperature;
    }
  }

  void prepare(int64_t group, float* vectors) const override {
    const int64_t count = steps_.count();
    // Every step has an equal share of the gradient of the mean state's cross-entropy.
    const float coefficient = a_.cross_entropy_coefficient * a_.inverse_temperature / static_cast<float>(count);
    for (int64_t lane = 0; lane < kBlock; ++lane) {
      const int64_t user = group * kBlock + lane;
      const bool there = user < a_.softmax.users;
      float* place = vectors + lane;
      for (int64_t t = 0; t <= count; ++t, place += kBlock) *place = there ? a_.shift[user * (count + 1) + t] : 0;
      *place = there ? coefficient / a_.norm[user * (count + 1) + count] : 0;
      place[kBlock] = coefficient;
      place += kBlock;
      for (int64_t t = 0; t < count; ++t) {
        const float inverse_norm = there ? 1.0f / a_.norm[user * (count + 1) + t] : 0;
        place[(1 + t) * kBlock] = inverse_norm;
        place[(1 + count + t) * kBlock] = there ? a_.spread[user * count + t] * inverse_norm : 0;
      }
    }
  }

  void gradient(const float* vectors, float* logits) const override {
    for (int64_t lane = 0; lane < kBlock; lane += kLanes)
      gradient_of_lanes(vectors + lane, logits + sum_index(0, lane));
  }

  float target_coefficient(const float* vectors, int64_t lane, int64_t) const override {
    return vectors[(steps_.count() + 2) * kBlock + lane];
  }

 private:
  REAREC_INLINE void add_lanes(const float* block, int items, float* running) const {
    const int count = steps_.count();
    const float scale = a_.inverse_temperature;
    Columns<T> columns;
    vfloat shift[Steps<T>::kMax + 1], norm[Steps<T>::kMax + 1], spread[Steps<T>::kMax], u[Steps<T>::kMax];
    for (int t = 0; t <= count; ++t) shift[t] = broadcast(-kInfinity);
    for_rows(block, items, [&](const float* row, int) {
      columns.load(row, kSums, steps_);
      for (int t = 0; t < count; ++t) shift[t] = larger(columns.z[t], shift[t]);
      shift[count] = larger(columns.mean(steps_), shift[count]);
    });
    vfloat factor[Steps<T>::kMax + 1];
    for (int t = 0; t <= count; ++t) {
      const vfloat before = load(running + t * kBlock);
      shift[t] = larger(shift[t], before);
      store(running + t * kBlock, shift[t]);
      factor[t] = exp_or_zero((before - shift[t]) * scale);
      norm[t] = vfloat{};
      if (t < count) spread[t] = vfloat{};
    }
    for_rows(block, items, [&](const float* row, int) {
      columns.load(row, kSums, steps_);
      columns.template spread<kPaper>(u, steps_);
      for (int t = 0; t <= count; ++t) {
        const vfloat e = exp_or_zero(((t < count ? columns.z[t] : columns.mean(steps_)) - shift[t]) * scale);
        norm[t] += e;
        if (t < count) spread[t] += e * u[t];
      }
    });
    float* norms = running + (count + 1) * kBlock;
    float* spreads = norms + 2 * (count + 1) * kBlock;
    for (int t = 0; t <= count; ++t)
      add_to_sum(norms + t * kBlock, norms + (count + 1 + t) * kBlock, factor[t], norm[t]);
    for (int t = 0; t < count; ++t) store(spreads + t * kBlock, load(spreads + t * kBlock) * factor[t] + spread[t]);
  }

  REAREC_INLINE void gradient_of_lanes(const float* vectors, float* block) const {
    const int count = steps_.count();
    const float scale = a_.inverse_temperature, kl = a_.kl_coefficient * scale;
    vfloat shift[Steps<T>::kMax + 1], inverse_norm[Steps<T>::kMax], mean_spread[Steps<T>::kMax], u[Steps<T>::kMax];
    for (int t = 0; t <= count; ++t) shift[t] = load(vectors + t * kBlock);
    const vfloat mean_weight = load(vectors + (count + 1) * kBlock);
    for (int t = 0; t < count; ++t) {
      inverse_norm[t] = load(vectors + (count + 3 + t) * kBlock);
      mean_spread[t] = load(vectors + (2 * count + 3 + t) * kBlock);
    }
    Columns<T> columns;
    for_rows(block, kBlock, [&](float* row, int) {
      columns.load(row, kSums, steps_);
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
        store(row + t * kSums, shared + kl * step);
      }
    });
  }

  const Ensemble& a_;
  const Steps<T> steps_;
};

template <int T>
void ensemble_by_form(const Ensemble& a) {
  if (a.paper_form)
    sweep(a.softmax, a.scratch, EnsembleLoss<T, true>(a));
  else
    sweep(a.softmax, a.scratch, EnsembleLoss<T, false>(a));
}

}  // namespace

namespace REAREC_ENGINE {

void ensemble(const Ensemble& a) {
  switch (a.softmax.steps) {
    case 1: return ensemble_by_form<1>(a);
    case 2: return ensemble_by_form<2>(a);
    case 3: return ensemble_by_form<3>(a);
    case 4: return ensemble_by_form<4>(a);
    case 5: return ensemble_by_form<5>(a);
    case 6: return ensemble_by_form<6>(a);
    default: return ensemble_by_form<0>(a);
  }
}

}  // namespace REAREC_ENGINE

}  // namespace rearec::tiles
