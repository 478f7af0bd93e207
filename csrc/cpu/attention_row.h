// Attention of one row: its queries over the prefix slots that it sees and its reasoning tokens so far.
#pragma once
#include <cmath>

#include "cpu/attention.h"
#include "cpu/head_vector.h"
#include "cpu/philox_vector.h"

namespace rearec {
namespace {

// Where a row's visible keys lie: the scores of one head are [end - start prefix slots, then the visible tokens].
struct RowView {
  int64_t row, prefix, start, end;
  RowView(const Rows& rows, int64_t position)
      : row(rows.order[position]), prefix(rows.row_prefix[row]), start(rows.start[row]), end(rows.end[row]) {}
  // The same prefix for operands that are numbered otherwise.
  RowView(const RowView& other, int64_t number)
      : row(number), prefix(other.prefix), start(other.start), end(other.end) {}
  int64_t slots() const { return end - start; }
};

// Calls visit(token, k or v pointer of kv head 0) for the row's first `count` tokens.
template <class T, bool Key, class Visit>
REAREC_INLINE void for_each_token(const List<TokenSegment>& segments, int64_t row, int64_t count, const Visit& visit) {
  int64_t token = 0;
  for (int64_t s = 0; s < segments.count && token < count; ++s) {
    const TokenSegment& segment = segments.items[s];
    const T* p = static_cast<const T*>(Key ? segment.k : segment.v) + row * segment.row_stride;
    for (int64_t i = 0; i < segment.count && token < count; ++i, ++token) visit(token, p + i * segment.token_stride);
  }
}

template <class T>
REAREC_INLINE const T* prefix_k(const Prefix& prefix, const RowView& view) {
  return static_cast<const T*>(prefix.k) + view.prefix * prefix.k_stride.prefix;
}
template <class T>
REAREC_INLINE const T* prefix_v(const Prefix& prefix, const RowView& view) {
  return static_cast<const T*>(prefix.v) + view.prefix * prefix.v_stride.prefix;
}

// scores -> probabilities, in place.
void softmax(float* x, int64_t n) {
  float m = -kInfinity;
  int64_t i = 0;
  vfloat vm = broadcast(m);
  for (; i + kLanes <= n; i += kLanes) {
    vm = larger(load(x + i), vm);
  }
  m = max(vm);
  for (; i < n; ++i) m = x[i] > m ? x[i] : m;
  vfloat total{};
  float rest = 0;
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const vfloat e = exp(load(x + i) - m);
    store(x + i, e);
    total += e;
  }
  if (i < n) {  // the tail as one partial vector
    float tail[kLanes];
    for (int j = 0; j < kLanes; ++j) tail[j] = i + j < n ? x[i + j] - m : -kInfinity;
    store(tail, exp(load(tail)));
    for (int j = 0; i + j < n; ++j) rest += (x[i + j] = tail[j]);
  }
  const float inverse = 1.0f / (sum(total) + rest);
  for (i = 0; i < n; ++i) x[i] *= inverse;
}

// Sets the sign bit of the probabilities that dropout drops: those of `slots` prefix slots from first_slot on, then of
// `tokens` reasoning tokens, whose key slots are counted from first_token on.
void apply_dropout(double dropout_p, uint64_t seed, float* p, int64_t slots, int64_t first_slot, int64_t tokens,
                   int64_t first_token, int64_t token, int64_t head, int64_t row) {
  const vuint threshold = dropout_threshold(dropout_p) - vuint{};
  const vuint in_prefix = static_cast<uint32_t>(slots) - vuint{};
  const vuint prefix_offset = static_cast<uint32_t>(first_slot) - vuint{};
  const vuint token_offset = static_cast<uint32_t>(first_token - slots) - vuint{};
  const vuint lanes = lane_numbers();
  for (int64_t i = 0; i < slots + tokens; i += kLanes) {
    const vuint number = lanes + static_cast<uint32_t>(i);
    vuint c[4] = {number + (number < in_prefix ? prefix_offset : token_offset),
                  static_cast<uint32_t>(token) - vuint{}, static_cast<uint32_t>(head) - vuint{},
                  static_cast<uint32_t>(row) - vuint{}};
    philox(seed, c);
    const vuint sign = c[0] < threshold ? vuint{} + 0x80000000u : vuint{};
    const int64_t count = slots + tokens - i;
    store_part(p + i, (vfloat)((vuint)load_part(p + i, count) ^ sign), count);
  }
}

// Scores of one head -> what the values are weighed with: softmax and dropout. Keeps what the backward pass needs. (Not
// inlined: it is the same for every width and dtype, and takes most of the time to compile.)
REAREC_OUTLINE void weigh(const AttentionForward& a, const RowView& view, int64_t query, int64_t head, float* scores) {
  const AttentionShape& shape = a.shape;
  const int64_t token = shape.tokens - shape.queries + query, visible = token + 1, slots = view.slots();
  softmax(scores, slots + visible);
  if (a.dropout_p > 0)
    apply_dropout(a.dropout_p, a.seed, scores, slots, view.start, visible, a.prefix.slots, token, head,
                  a.mask_rows.number(view.row));
  if (a.token_probs) {  // never empty; prefix_probs is when there are no slots
    const int64_t at = (view.row * shape.heads + head) * shape.queries + query;
    float* prefix = a.prefix_probs + at * a.prefix.slots;
    std::memset(prefix, 0, sizeof(float) * view.start);
    std::memcpy(prefix + view.start, scores, sizeof(float) * slots);
    std::memset(prefix + view.end, 0, sizeof(float) * (a.prefix.slots - view.end));
    float* tokens = a.token_probs + at * shape.tokens;
    std::memcpy(tokens, scores + slots, sizeof(float) * visible);
    std::memset(tokens + visible, 0, sizeof(float) * (shape.tokens - visible));
  }
  if (a.dropout_p > 0) {
    const float keep = static_cast<float>(1.0 / (1.0 - a.dropout_p));
    for (int64_t c = 0; c < slots + visible; ++c) scores[c] = std::signbit(scores[c]) ? 0.0f : scores[c] * keep;
  }
}

template <class T, int D, int HeadCount>
REAREC_INLINE void attend_heads(const AttentionForward& a, const RowView& view, int64_t query, int64_t head,
                                const T* q_heads, T* out_heads, float* const* scores) {
  const AttentionShape& shape = a.shape;
  const int d = static_cast<int>(shape.head_dim);
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t visible = shape.tokens - shape.queries + query + 1;  // this query's own token is the last
  const int64_t slots = view.slots();

  HeadVector<D> q[HeadCount];
  for (int h = 0; h < HeadCount; ++h) q[h].load(q_heads + (head + h) * d, d);
  const T* k = prefix_k<T>(a.prefix, view);
  for (int64_t c = 0; c < slots; ++c) {
    const T* slot = k + (view.start + c) * a.prefix.k_stride.slot;
    for (int h = 0; h < HeadCount; ++h)
      scores[h][c] = q[h].dot(slot + (head + h) / group * a.prefix.k_stride.head, d) * shape.scale;
  }
  for_each_token<T, true>(a.segments, view.row, visible, [&](int64_t i, const T* p) {
    for (int h = 0; h < HeadCount; ++h) scores[h][slots + i] = q[h].dot(p + (head + h) / group * d, d) * shape.scale;
  });

  for (int h = 0; h < HeadCount; ++h) weigh(a, view, query, head + h, scores[h]);

  HeadVector<D> out[HeadCount];
  for (int h = 0; h < HeadCount; ++h) out[h].zero(d);
  const T* v = prefix_v<T>(a.prefix, view);
  for (int64_t c = 0; c < slots; ++c) {
    const T* slot = v + (view.start + c) * a.prefix.v_stride.slot;
    for (int h = 0; h < HeadCount; ++h) out[h].add(scores[h][c], slot + (head + h) / group * a.prefix.v_stride.head, d);
  }
  for_each_token<T, false>(a.segments, view.row, visible, [&](int64_t i, const T* p) {
    for (int h = 0; h < HeadCount; ++h) out[h].add(scores[h][slots + i], p + (head + h) / group * d, d);
  });
  for (int h = 0; h < HeadCount; ++h) out[h].store(out_heads + (head + h) * d, d);
}

// What `attend` needs for the scores of the heads that it takes together.
template <int D>
constexpr int64_t score_floats(int64_t slots, int64_t tokens) {
  return heads_per_sweep<D>() * (slots + tokens);
}

// One query of a row: q and out are [heads, head_dim], of a.q and a.out or of memory of the caller's own.
template <class T, int D>
REAREC_INLINE void attend(const AttentionForward& a, const RowView& view, int64_t query, const T* q, T* out,
                          float* scratch) {
  constexpr int kSweep = heads_per_sweep<D>();
  float* const scores[2] = {scratch, scratch + (kSweep - 1) * (a.prefix.slots + a.shape.tokens)};
  int64_t head = 0;
  for (; head + kSweep <= a.shape.heads; head += kSweep) attend_heads<T, D, kSweep>(a, view, query, head, q, out, scores);
  for (; head < a.shape.heads; ++head) attend_heads<T, D, 1>(a, view, query, head, q, out, scores);
}

template <int D>
struct HeadWidth {
  static constexpr int value = D;
};

// Calls run(HeadWidth<D>): 32, 64, 128 and 256 are unrolled, every other width up to kMaxHeadDim runs (as 0).
template <class Run>
REAREC_INLINE void with_head_width(int64_t head_dim, const Run& run) {
  switch (head_dim) {
    case 32: return run(HeadWidth<32>{});
    case 64: return run(HeadWidth<64>{});
    case 128: return run(HeadWidth<128>{});
    case 256: return run(HeadWidth<256>{});
    default: return run(HeadWidth<0>{});
  }
}

}  // namespace
}  // namespace rearec
