// Softmax losses on the CPU: what they read and leave whichever way the logits come, and the kernels over chunks of them.
//
// A statistics pass over the logits leaves a few numbers per row; the gradient pass needs only these. So a catalog that
// is split over processes needs nothing but a reduction of the statistics between the two passes.
#pragma once
#include <cstdint>

namespace rearec {

// Rows belong together in groups of `steps`: the steps of one user, who has one target.
struct Users {
  int64_t count;
  int64_t steps;
  const int64_t* target;  // [count], -1 where it is not in this part of the catalog
};

// Cross-entropy at softmax((logit - shift) * inverse_temperature), per row:
//   shift         the largest logit
//   norm          sum of exp((logit - shift) * inverse_temperature)
//   target_logit  (logit of the target - shift) * inverse_temperature, 0 without a target
// so that the loss is log(norm) - target_logit.
struct CrossEntropy {
  const float* inverse_temperature;  // [steps]
  float* shift;                      // [users, steps]
  float* norm;
  float* target_logit;
  const float* coefficient;  // [users, steps], gradient pass only: d(total) / d(loss of this row)
};

// Cross-entropy of the mean state minus a multiple of the divergence between the steps (ReaRec's ERL), per user with
// logits z_0 .. z_{T-1}. u_i = sum over j of (z_i - z_j), over all j in the official form, over j > i in the paper's;
// statistics of the mean of the steps come last:
//   shift, norm   [users, steps + 1] as above
//   spread        [users, steps]: sum of exp((z_i - shift_i) * inverse_temperature) * u_i
//   target_logit  [users], of the mean
struct Ensemble {
  float inverse_temperature;
  bool paper_form;
  float* shift;
  float* norm;
  float* spread;
  float* target_logit;
  float cross_entropy_coefficient;  // d(total) / d(cross-entropy of one user)
  float kl_coefficient;             // d(total) / d(sum over i of E_i[u_i] and its lse terms, of one user)
};

constexpr int64_t kLogitsPadding = 16;

// Raw logits h.e (no temperature yet) that a matrix product has just written, [items, steps, users] without gaps. The
// gradient pass leaves their gradient in their place. kLogitsPadding floats beyond the last one are read, and mean nothing.
struct LogitChunk {
  float* values;
  int64_t items;
  Users users;
  const int32_t* group;    // [items] or null: items in the group of a user's target, itself excepted, are left out
  bool round_to_bfloat16;  // the gradient that is written
  bool statistics;         // the passes to make; a gradient pass alone takes the statistics as given
  bool gradient;
  int threads;
};

template <class Loss>
struct OfChunk {
  LogitChunk chunk;
  Loss loss;
};

struct LossKernels {
  void (*cross_entropy)(const OfChunk<CrossEntropy>&);
  void (*ensemble)(const OfChunk<Ensemble>&);
};

namespace baseline { extern const LossKernels losses; }
namespace x86_64_v3 { extern const LossKernels losses; }
namespace x86_64_v4 { extern const LossKernels losses; }

}  // namespace rearec
