// Softmax losses over a chunk of logits on the CPU: arguments of the kernels and their table, one per instruction set.
//
// A chunk holds raw logits h.e (no temperature yet) that a matrix product has just written. The statistics pass reads
// it and leaves a few numbers per row; the gradient pass needs only these and writes the gradient over the logits. So a
// catalog that is split over processes needs nothing but a reduction of the statistics between the two passes.
#pragma once
#include <cstdint>

namespace rearec {

// Row-major float32; rows belong together in groups of `steps` (the steps of one user), group g has the column
// target[g], or none (-1) when that column is not in this part of the catalog. Rows are padded to whole vectors of
// kPadding floats (row_stride is at least that): the padding is overwritten and means nothing.
constexpr int64_t kPadding = 16;

struct Logits {
  float* values;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t steps;
  const int64_t* target;
  int threads;
};

// Cross-entropy at softmax((logit - shift) * inverse_temperature), per row:
//   shift         the largest logit
//   norm          sum of exp((logit - shift) * inverse_temperature)
//   target_logit  (logit of the target - shift) * inverse_temperature, 0 without a target
// so that the loss is log(norm) - target_logit.
struct CrossEntropy {
  Logits logits;
  const float* inverse_temperature;  // [steps]
  float* shift;                      // [rows]
  float* norm;
  float* target_logit;
  const float* coefficient;  // [rows], gradient pass only: d(total) / d(loss of this row)
  bool round_to_bfloat16;    // the gradient that is written
};

// Cross-entropy of the mean state minus a multiple of the divergence between the steps (ReaRec's ERL), per group of
// `steps` rows z_0 .. z_{T-1}. u_i = sum over j of (z_i - z_j), over all j in the official form, over j > i in the
// paper's; statistics of the mean of the rows come last:
//   shift, norm   [groups, steps + 1] as above
//   spread        [groups, steps]: sum of exp((z_i - shift_i) * inverse_temperature) * u_i
//   target_logit  [groups], of the mean
struct Ensemble {
  Logits logits;
  float inverse_temperature;
  bool paper_form;
  float* shift;
  float* norm;
  float* spread;
  float* target_logit;
  float cross_entropy_coefficient;  // d(total) / d(cross-entropy of one group)
  float kl_coefficient;             // d(total) / d(sum over i of E_i[u_i] and its lse terms, of one group)
  bool round_to_bfloat16;
};

// Columns that share the group of a row's target column are taken out (-infinity), the target itself stays.
struct GroupMask {
  Logits logits;
  const int32_t* group;  // [columns], padded like a row of logits
};

struct LossKernels {
  void (*cross_entropy_statistics)(const CrossEntropy&);
  void (*cross_entropy_gradient)(const CrossEntropy&);
  void (*cross_entropy)(const CrossEntropy&);  // both, row by row, while the row is in the cache
  void (*ensemble_statistics)(const Ensemble&);
  void (*ensemble_gradient)(const Ensemble&);
  void (*ensemble)(const Ensemble&);
  void (*mask_groups)(const GroupMask&);
};

namespace baseline { extern const LossKernels losses; }
namespace x86_64_v3 { extern const LossKernels losses; }
namespace x86_64_v4 { extern const LossKernels losses; }

}  // namespace rearec
