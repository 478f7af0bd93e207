// A softmax loss over the items of a catalog as the passes see it that bring the logits: over chunks in memory
// (losses.cpp) or by tiles (tiles/sweep.h). Its formulas are in cross_entropy.h and ensemble.h.
//
// A lane of a vector is a user, the same one in every step. Differences of logits are taken before the temperature is
// applied: the entries that matter are close to the maximum, where the subtraction is exact.
#pragma once
#include "cpu/losses.h"
#include "cpu/simd.h"

namespace rearec {
namespace {

constexpr int kGroup = 32;    // users, in vectors of so many floats
constexpr int kSixteen = 16;  // items, or users, that lie regularly
static_assert(kSixteen % kLanes == 0);

// Logits of some items for some users of a group, in all steps. Users lie beside each other, at least sixteen.
struct LogitBlock {
  float* values;
  int items;
  int lanes;  // users, in whole vectors
  int64_t step_stride;
  int64_t item_stride;
  int64_t sixteen_items;  // to the same of the next sixteen
  int64_t sixteen_lanes;

  REAREC_INLINE float* at(int64_t step, int64_t item, int64_t lane) const {
    return values + step * step_stride + item / kSixteen * sixteen_items + item % kSixteen * item_stride +
           lane / kSixteen * sixteen_lanes + lane % kSixteen;
  }

  // Calls visit(logits, j) for a vector of lanes of every item, four at a time: j is 0 to 3 within the four.
  template <class Visit>
  REAREC_INLINE void for_items(float* first, const Visit& visit) const {
    for (int done = 0; done < items; done += kSixteen, first += sixteen_items) {
      const int count = items - done < kSixteen ? items - done : kSixteen, whole = count - count % 4;
      float* row = first;
      for (int i = 0; i < whole; i += 4, row += 4 * item_stride)
        for (int j = 0; j < 4; ++j) visit(row + j * item_stride, j);
      for (int i = whole; i < count; ++i, row += item_stride) visit(row, 0);
    }
  }
};

// The statistics of the threads, each of a part of the items.
struct Running {
  const float* first;
  int64_t stride;  // from a thread's to the next one's
  int64_t threads;
  REAREC_INLINE float of(int64_t thread, int64_t place) const { return first[thread * stride + place]; }
};

// Vectors are of kGroup floats, one for each user of a group; blocks may begin at a later lane of it, and so do the
// vectors that are passed with them.
class Loss {
 public:
  virtual int64_t running_vectors() const = 0;   // running statistics of a thread
  virtual int64_t gradient_vectors() const = 0;  // what `gradient` reads
  // Statistics of nothing, for one group.
  virtual void begin(float* running) const = 0;
  // Adds a block of logits.
  virtual void add(const LogitBlock& block, float* running) const = 0;
  // The logit of a user's target in the first step, the others' follow.
  virtual void target(int64_t user, const float* logit, int64_t step_stride) const = 0;
  // The statistics of all threads as those of the loss.
  virtual void merge(int64_t group, const Running& running) const = 0;
  // Vectors for `gradient`.
  virtual void prepare(int64_t group, float* vectors) const = 0;
  // A block of logits into the gradient with respect to them, without the share of the target.
  virtual void gradient(const float* vectors, const LogitBlock& block) const = 0;
  // What the gradient at the logit of the target has less. As read from memory: a product in place of it would be
  // contracted with the subtraction, and leave a rounding where the difference is 0.
  virtual float target_coefficient(const float* vectors, int64_t lane, int64_t step) const = 0;
};

// e^x for x up to 88, relative error below 2e-7 near 0; NaN stays NaN. Under -64 it is exactly 0: probabilities that small
// relative to a row's largest add nothing, and what is built from the others stays clear of denormals, in the loops here
// and in the matrix products that follow.
REAREC_INLINE vfloat exp_or_zero(vfloat x) {
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
  const vfloat magic = broadcast(12582912.0f), log2_e = broadcast(1.44269504088896341f);
  const vfloat shifted = x * log2_e + magic;
  const vfloat r = x * log2_e - (shifted - magic);
  vfloat p = broadcast(1.3264727253e-3f);
  p = p * r + 9.6715127859e-3f;
  p = p * r + 5.5507337445e-2f;
  p = p * r + 2.4022242083e-1f;
  p = p * r + 6.9314697760e-1f;
  p = p * r + 1.0f;
  const vuint exponent = ((vuint)shifted << 23) + (vuint)broadcast(1.0f);  // may overflow where the result is 0
  return x < -64.0f ? vfloat{} : p * (vfloat)exponent;
}
REAREC_INLINE float exp_or_zero(float x) { return exp_or_zero(broadcast(x))[0]; }

// sum + rest grow by a value, and by a factor before that. What rounding takes from the sum is kept in the rest: thousands
// of blocks add up, to rows with one logit that outweighs all the others together.
REAREC_INLINE void add_to_sum(float* sum, float* rest, vfloat factor, vfloat value) {
  const vfloat before = load(sum) * factor, after = before + value;
  const vfloat added = after - before;
  store(sum, after);
  store(rest, load(rest) * factor + ((before - (after - added)) + (value - added)));
}

// The largest shift of the threads, and sums that are relative to their shifts as one that is relative to it.
REAREC_INLINE float merged_shift(const Running& running, int64_t shift) {
  float largest = -kInfinity;
  for (int64_t i = 0; i < running.threads; ++i) largest = running.of(i, shift) > largest ? running.of(i, shift) : largest;
  return largest;
}
REAREC_INLINE double merged_sum(const Running& running, int64_t shift, int64_t sum, float largest,
                                float inverse_temperature) {
  double total = 0;
  for (int64_t i = 0; i < running.threads; ++i) {
    const float difference = running.of(i, shift) == largest ? 0 : running.of(i, shift) - largest;
    total += static_cast<double>(exp_or_zero(difference * inverse_temperature)) * running.of(i, sum);
  }
  return total;
}

// What of a block is in the group of its user's target, the target itself excepted, becomes -infinity.
//
// first_item, first_user: the block's first ones.
REAREC_INLINE void mask_groups(const LogitBlock& block, const int32_t* group, int64_t first_item, int64_t first_user,
                               const Users& users) {
  alignas(64) int32_t group_of_lane[kGroup], target_of_lane[kGroup], is_lane[kGroup];
  for (int lane = 0; lane < block.lanes; ++lane) {
    const int64_t user = first_user + lane, target = user < users.count ? users.target[user] : -1;
    is_lane[lane] = target < 0 ? 0 : -1;
    group_of_lane[lane] = target < 0 ? 0 : group[target];
    target_of_lane[lane] = static_cast<int32_t>(target - first_item);  // matters within the block alone
  }
  for (int lane = 0; lane < block.lanes; lane += kLanes) {
    vint groups, targets, counts;
    std::memcpy(&groups, group_of_lane + lane, sizeof groups);
    std::memcpy(&targets, target_of_lane + lane, sizeof targets);
    std::memcpy(&counts, is_lane + lane, sizeof counts);
    for (int item = 0; item < block.items; ++item) {
      const vint left_out = (groups == group[first_item + item]) & (targets != item) & counts;
      for (int64_t t = 0; t < users.steps; ++t) {
        float* const logits = block.at(t, item, lane);
        store(logits, left_out ? broadcast(-kInfinity) : load(logits));
      }
    }
  }
}

}  // namespace
}  // namespace rearec
