// Softmax statistics and gradients over chunks of logits, in place (ReaRec, sections 3.3 and 3.4).
//
// A row is walked in blocks that stay in the first-level cache: the block's maximum first, then its exponentials, with
// what was summed before rescaled when the maximum grew. Differences of logits are taken before the temperature is
// applied: the entries that matter are close to the maximum, where the subtraction is exact.
#include "cpu/losses.h"

#include "cpu/parallel.h"
#include "cpu/softmax.h"

namespace rearec {
namespace {

constexpr int64_t kBlock = 32 * kLanes;  // columns

REAREC_INLINE vfloat rounded_to_bfloat16(vfloat v) {
  const vuint bits = (vuint)v;
  const vuint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  return v != v ? v : (vfloat)rounded;
}

// The vectors of a row cover its padding too.
REAREC_INLINE void fill_padding(float* row, int64_t columns, float value) {
  for (int64_t n = columns; n < padded(columns); ++n) row[n] = value;
}

REAREC_INLINE void round_row(float* row, int64_t columns) {
  for (int64_t n = 0; n < columns; n += kLanes) store(row + n, rounded_to_bfloat16(load(row + n)));
}

// --- Cross-entropy

REAREC_INLINE float block_maximum(const float* row, int64_t columns) {
  vfloat m[4];
  for (int i = 0; i < 4; ++i) m[i] = broadcast(-kInfinity);
  int64_t n = 0;
  for (; n + 4 * kLanes <= columns; n += 4 * kLanes)
    for (int i = 0; i < 4; ++i) m[i] = larger(load(row + n + i * kLanes), m[i]);
  for (; n < columns; n += kLanes) m[0] = larger(load(row + n), m[0]);
  return max(larger(larger(m[0], m[1]), larger(m[2], m[3])));
}

REAREC_INLINE vfloat block_sum_of_exp(const float* row, int64_t columns, float shift, float inverse_temperature) {
  vfloat total[2] = {};
  int64_t n = 0;
  for (; n + 2 * kLanes <= columns; n += 2 * kLanes)
    for (int i = 0; i < 2; ++i) total[i] += exp_or_zero((load(row + n + i * kLanes) - shift) * inverse_temperature);
  for (; n < columns; n += kLanes) total[0] += exp_or_zero((load(row + n) - shift) * inverse_temperature);
  return total[0] + total[1];
}

REAREC_OUTLINE void cross_entropy_row_statistics(const CrossEntropy& a, int64_t r) {
  float* row = a.logits.values + r * a.logits.row_stride;
  const float inverse_temperature = a.inverse_temperature[r % a.logits.steps];
  const int64_t target = a.logits.target[r / a.logits.steps];
  fill_padding(row, a.logits.columns, -kInfinity);
  float shift = -kInfinity;
  vfloat norm{};
  for (int64_t n = 0; n < a.logits.columns; n += kBlock) {
    const int64_t count = a.logits.columns - n < kBlock ? a.logits.columns - n : kBlock;
    const float m = block_maximum(row + n, count);
    if (m > shift) {
      norm *= exp_or_zero((shift - m) * inverse_temperature);
      shift = m;
    }
    // As long as all logits are -infinity (masked), 0 stands for their maximum.
    norm += block_sum_of_exp(row + n, count, shift == -kInfinity ? 0.0f : shift, inverse_temperature);
  }
  a.shift[r] = shift;
  a.norm[r] = sum(norm);
  a.target_logit[r] = target < 0 ? 0 : (row[target] - shift) * inverse_temperature;
}

REAREC_OUTLINE void cross_entropy_row_gradient(const CrossEntropy& a, int64_t r) {
  float* row = a.logits.values + r * a.logits.row_stride;
  const float inverse_temperature = a.inverse_temperature[r % a.logits.steps];
  const int64_t target = a.logits.target[r / a.logits.steps];
  const float coefficient = a.coefficient[r] * inverse_temperature;
  const float shift = a.shift[r], weight = coefficient / a.norm[r];
  for (int64_t n = 0; n < a.logits.columns; n += kLanes)
    store(row + n, weight * exp_or_zero((load(row + n) - shift) * inverse_temperature));
  if (target >= 0) row[target] -= coefficient;
  if (a.round_to_bfloat16) round_row(row, a.logits.columns);
}

void cross_entropy_statistics(const CrossEntropy& a) {
  for_each_task(a.logits.threads, a.logits.rows, [&](int64_t r) { cross_entropy_row_statistics(a, r); });
}

void cross_entropy_gradient(const CrossEntropy& a) {
  for_each_task(a.logits.threads, a.logits.rows, [&](int64_t r) { cross_entropy_row_gradient(a, r); });
}

void cross_entropy(const CrossEntropy& a) {
  for_each_task(a.logits.threads, a.logits.rows, [&](int64_t r) {
    cross_entropy_row_statistics(a, r);
    cross_entropy_row_gradient(a, r);
  });
}

// --- Ensemble

REAREC_INLINE vint first_lanes(int64_t count) {
  vint lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i < count ? -1 : 0;
  return lane;
}

template <int T, bool kPaper>
REAREC_OUTLINE void ensemble_group_statistics(const Ensemble& a, int64_t g) {
  const Steps<T> steps{static_cast<int>(a.logits.steps)};
  const int count = steps.count();
  const int64_t stride = a.logits.row_stride, size = a.logits.columns;
  const float scale = a.inverse_temperature;
  float* rows = a.logits.values + g * count * stride;
  // The padding repeats the last column: it changes no maximum, and the sums leave it out.
  for (int t = 0; t < count; ++t) fill_padding(rows + t * stride, size, rows[t * stride + size - 1]);
  const vint last_lanes = first_lanes(size - (padded(size) - kLanes));

  // Entry `count` is the mean state.
  float shift[Steps<T>::kMax + 1];
  vfloat norm[Steps<T>::kMax + 1], spread[Steps<T>::kMax];
  for (int t = 0; t <= count; ++t) shift[t] = -kInfinity, norm[t] = vfloat{};
  for (int t = 0; t < count; ++t) spread[t] = vfloat{};

  Columns<T> columns;
  for (int64_t first = 0; first < size; first += kBlock) {
    const int64_t end = size - first < kBlock ? size : first + kBlock;
    vfloat maximum[Steps<T>::kMax + 1];
    for (int t = 0; t <= count; ++t) maximum[t] = broadcast(-kInfinity);
    for (int64_t n = first; n < end; n += kLanes) {
      columns.load(rows + n, stride, steps);
      for (int t = 0; t < count; ++t) maximum[t] = larger(columns.z[t], maximum[t]);
      maximum[count] = larger(columns.mean(steps), maximum[count]);
    }
    for (int t = 0; t <= count; ++t) {
      const float m = max(maximum[t]);
      if (m > shift[t]) {
        const float factor = exp_or_zero((shift[t] - m) * scale);
        norm[t] *= factor;
        if (t < count) spread[t] *= factor;
        shift[t] = m;
      }
    }
    // Summed per block, then added: rounding errors grow with the block and the number of blocks, not their product.
    vfloat block_norm[Steps<T>::kMax + 1], block_spread[Steps<T>::kMax], u[Steps<T>::kMax];
    for (int t = 0; t <= count; ++t) block_norm[t] = vfloat{};
    for (int t = 0; t < count; ++t) block_spread[t] = vfloat{};
    for (int64_t n = first; n < end; n += kLanes) {
      columns.load(rows + n, stride, steps);
      columns.template spread<kPaper>(u, steps);
      const vfloat mean = columns.mean(steps);
      for (int t = 0; t <= count; ++t) {
        vfloat e = exp_or_zero(((t < count ? columns.z[t] : mean) - shift[t]) * scale);
        if (end - n < kLanes) e = last_lanes ? e : vfloat{};
        block_norm[t] += e;
        if (t < count) block_spread[t] += e * u[t];
      }
    }
    for (int t = 0; t <= count; ++t) norm[t] += block_norm[t];
    for (int t = 0; t < count; ++t) spread[t] += block_spread[t];
  }

  for (int t = 0; t <= count; ++t) {
    a.shift[g * (count + 1) + t] = shift[t];
    a.norm[g * (count + 1) + t] = sum(norm[t]);
    if (t < count) a.spread[g * count + t] = sum(spread[t]);
  }
  const int64_t target = a.logits.target[g];
  a.target_logit[g] = 0;
  if (target >= 0) {
    columns.load(rows + target / kLanes * kLanes, stride, steps);
    a.target_logit[g] = (columns.mean(steps)[target % kLanes] - shift[count]) * scale;
  }
}

template <int T, bool kPaper>
REAREC_OUTLINE void ensemble_group_gradient(const Ensemble& a, int64_t g) {
  const Steps<T> steps{static_cast<int>(a.logits.steps)};
  const int count = steps.count();
  const int64_t stride = a.logits.row_stride, size = a.logits.columns;
  const float scale = a.inverse_temperature;
  float* rows = a.logits.values + g * count * stride;
  const float* shift = a.shift + g * (count + 1);
  const float* norm = a.norm + g * (count + 1);
  // Every step has an equal share of the gradient of the mean state's cross-entropy.
  const float cross_entropy = a.cross_entropy_coefficient * scale / static_cast<float>(count);
  const float mean_weight = cross_entropy / norm[count];
  const float kl = a.kl_coefficient * scale;
  float inverse_norm[Steps<T>::kMax], mean_spread[Steps<T>::kMax];
  for (int t = 0; t < count; ++t) {
    inverse_norm[t] = 1.0f / norm[t];
    mean_spread[t] = a.spread[g * count + t] * inverse_norm[t];
  }
  Columns<T> columns;
  vfloat u[Steps<T>::kMax];
  for (int64_t n = 0; n < size; n += kLanes) {
    columns.load(rows + n, stride, steps);
    columns.template spread<kPaper>(u, steps);
    const vfloat shared = mean_weight * exp_or_zero((columns.mean(steps) - shift[count]) * scale);
    vfloat earlier{};  // probabilities of the earlier steps
    for (int t = 0; t < count; ++t) {
      const vfloat p = exp_or_zero((columns.z[t] - shift[t]) * scale) * inverse_norm[t];
      vfloat gradient = p * ((u[t] - mean_spread[t]) * scale);
      if (kPaper) {
        gradient += p * static_cast<float>(t) - earlier;
        earlier += p;
      }
      store(rows + t * stride + n, shared + kl * gradient);
    }
  }
  const int64_t target = a.logits.target[g];
  for (int t = 0; t < count; ++t) {
    if (target >= 0) rows[t * stride + target] -= cross_entropy;
    if (a.round_to_bfloat16) round_row(rows + t * stride, size);
  }
}

template <int T, bool kPaper, bool kStatistics, bool kGradient>
void ensemble_groups(const Ensemble& a) {
  for_each_task(a.logits.threads, a.logits.rows / a.logits.steps, [&](int64_t g) {
    if (kStatistics) ensemble_group_statistics<T, kPaper>(a, g);
    if (kGradient) ensemble_group_gradient<T, kPaper>(a, g);
  });
}

template <int T, bool kStatistics, bool kGradient>
void ensemble_by_form(const Ensemble& a) {
  a.paper_form ? ensemble_groups<T, true, kStatistics, kGradient>(a)
               : ensemble_groups<T, false, kStatistics, kGradient>(a);
}

template <bool kStatistics, bool kGradient>
void ensemble_by_steps(const Ensemble& a) {
  switch (a.logits.steps) {
    case 1: return ensemble_by_form<1, kStatistics, kGradient>(a);
    case 2: return ensemble_by_form<2, kStatistics, kGradient>(a);
    case 3: return ensemble_by_form<3, kStatistics, kGradient>(a);
    case 4: return ensemble_by_form<4, kStatistics, kGradient>(a);
    case 5: return ensemble_by_form<5, kStatistics, kGradient>(a);
    case 6: return ensemble_by_form<6, kStatistics, kGradient>(a);
    default: return ensemble_by_form<0, kStatistics, kGradient>(a);
  }
}

// --- Group mask

void mask_groups(const GroupMask& a) {
  for_each_evenly(a.logits.threads, a.logits.rows, [&](int64_t r) {
    float* row = a.logits.values + r * a.logits.row_stride;
    const int64_t target = a.logits.target[r / a.logits.steps];
    const int32_t group = a.group[target];
    const float kept = row[target];
    for (int64_t n = 0; n < a.logits.columns; n += kLanes) {
      vint groups;
      std::memcpy(&groups, a.group + n, sizeof groups);
      store(row + n, groups == group ? broadcast(-kInfinity) : load(row + n));
    }
    row[target] = kept;
  });
}

}  // namespace

namespace REAREC_ISA {
const LossKernels losses = {
    cross_entropy_statistics,
    cross_entropy_gradient,
    cross_entropy,
    ensemble_by_steps<true, false>,
    ensemble_by_steps<false, true>,
    ensemble_by_steps<true, true>,
    mask_groups,
};
}

}  // namespace rearec
