// Attention of reasoning tokens over a shared prefix and the row's own earlier reasoning tokens (ReaRec, section 3).
// Memory-bound: every K and V element of what a row sees is read once per pass, nothing of size [rows, slots, head_dim]
// is written, and padding is never touched.
#include "cpu/attention_row.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace rearec {
namespace {

int rows_per_task(int64_t rows, int threads) {
  const int64_t tasks = rows / (int64_t{8} * (threads > 0 ? threads : 1));
  return static_cast<int>(tasks < 1 ? 1 : (tasks > 16 ? 16 : tasks));
}

template <class T>
void append_tokens(const AttentionForward& a, int64_t row) {
  const AttentionShape& shape = a.shape;
  const TokenSegment& segment = a.segments.items[0];
  const int64_t width = shape.kv_heads * shape.head_dim;
  for (int64_t query = 0; query < shape.queries; ++query) {
    const int64_t from = (row * shape.queries + query) * width;
    const int64_t to = row * segment.row_stride + (shape.tokens - shape.queries + query) * segment.token_stride;
    T* k = const_cast<T*>(static_cast<const T*>(segment.k)) + to;
    T* v = const_cast<T*>(static_cast<const T*>(segment.v)) + to;
    std::memcpy(k, static_cast<const T*>(a.new_k) + from, sizeof(T) * width);
    std::memcpy(v, static_cast<const T*>(a.new_v) + from, sizeof(T) * width);
  }
}

template <class T, int D>
void forward_rows(const AttentionForward& a) {
  const AttentionShape& shape = a.shape;
  const int64_t width = a.prefix.slots + shape.tokens;
  const bool parallel = a.rows.count * shape.heads * width * shape.head_dim > (1 << 16);
  Tasks rows(a.rows.count, rows_per_task(a.rows.count, a.threads));
  in_threads(parallel ? a.threads : 1, [&](int, int) {
    Scratch scratch(score_floats<D>(a.prefix.slots, shape.tokens));
    rows.run([&](int64_t position) {
      const RowView view(a.rows, position);
      if (a.new_k) append_tokens<T>(a, view.row);
      for (int64_t query = 0; query < shape.queries; ++query) {
        const int64_t offset = (view.row * shape.queries + query) * shape.heads * shape.head_dim;
        attend<T, D>(a, view, query, static_cast<const T*>(a.q) + offset, static_cast<T*>(a.out) + offset, scratch.data);
      }
    });
  });
}

// Of one head, in place: gradients of the probabilities -> of the scores, ds = p (dp - sum p dp) scale. Those of the prefix
// go into prefix_dscores, too. (Not inlined: it is the same for every width and dtype.)
REAREC_OUTLINE void softmax_backward(const AttentionBackward& a, const RowView& view, int64_t query, int64_t head,
                                     float* dp) {
  const AttentionShape& shape = a.shape;
  const int64_t visible = shape.tokens - shape.queries + query + 1, slots = view.slots();
  const int64_t at = (view.row * shape.heads + head) * shape.queries + query;
  const float* prefix_probs = a.prefix_probs + at * a.prefix.slots + view.start;
  const float* token_probs = a.token_probs + at * shape.tokens;
  const float keep = static_cast<float>(1.0 / (1.0 - a.dropout_p));
  float total = 0;
  const auto sum_up = [&](const float* p, float* x, int64_t n) {
    if (a.dropout_p > 0)
      for (int64_t c = 0; c < n; ++c) x[c] = std::signbit(p[c]) ? 0.0f : x[c] * keep;
#pragma omp simd reduction(+ : total)
    for (int64_t c = 0; c < n; ++c) total += std::fabs(p[c]) * x[c];
  };
  sum_up(prefix_probs, dp, slots);
  sum_up(token_probs, dp + slots, visible);
  const auto to_scores = [&](const float* p, float* x, int64_t n) {
    for (int64_t c = 0; c < n; ++c) x[c] = std::fabs(p[c]) * (x[c] - total) * shape.scale;
  };
  to_scores(prefix_probs, dp, slots);
  to_scores(token_probs, dp + slots, visible);
  float* dscores = a.prefix_dscores + at * a.prefix.slots;
  std::memset(dscores, 0, sizeof(float) * view.start);
  std::memcpy(dscores + view.start, dp, sizeof(float) * slots);
  std::memset(dscores + view.end, 0, sizeof(float) * (a.prefix.slots - view.end));
}

template <class T, int D, int HeadCount>
REAREC_INLINE void backward_heads(const AttentionBackward& a, const RowView& view, int64_t query, int64_t head,
                                  float* const* scores, float* token_k, float* token_v) {
  const AttentionShape& shape = a.shape;
  const int d = static_cast<int>(shape.head_dim);
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t visible = shape.tokens - shape.queries + query + 1;
  const int64_t offset = ((view.row * shape.queries + query) * shape.heads + head) * d;
  const int64_t at = (view.row * shape.heads + head) * shape.queries + query;
  const int64_t slots = view.slots();
  const float keep = static_cast<float>(1.0 / (1.0 - a.dropout_p));

  // Gradient of the probabilities: grad_out . v
  HeadVector<D> grad[HeadCount];
  for (int h = 0; h < HeadCount; ++h) grad[h].load(static_cast<const T*>(a.grad_out) + offset + h * d, d);
  const T* v = prefix_v<T>(a.prefix, view);
  for (int64_t c = 0; c < slots; ++c) {
    const T* slot = v + (view.start + c) * a.prefix.v_stride.slot;
    for (int h = 0; h < HeadCount; ++h)
      scores[h][c] = grad[h].dot(slot + (head + h) / group * a.prefix.v_stride.head, d);
  }
  for_each_token<T, false>(a.segments, view.row, visible, [&](int64_t i, const T* p) {
    for (int h = 0; h < HeadCount; ++h) scores[h][slots + i] = grad[h].dot(p + (head + h) / group * d, d);
  });

  for (int h = 0; h < HeadCount; ++h) {
    softmax_backward(a, view, query, head + h, scores[h]);
    // The token V gradients.
    const float* token_probs = a.token_probs + (at + h * shape.queries) * shape.tokens;
    float* grad_v = token_v + (head + h) / group * d;
    for (int64_t i = 0; i < visible; ++i) {
      const float p = token_probs[i];
      if (std::signbit(p)) continue;
      float* to = grad_v + i * shape.kv_heads * d;
      HeadVector<D> sum;
      sum.load(to, d);
      sum.add(p * keep, static_cast<const T*>(a.grad_out) + offset + h * d, d);
      sum.store(to, d);
    }
  }

  // dq = sum ds k, and the token K gradients.
  HeadVector<D> grad_q[HeadCount];
  for (int h = 0; h < HeadCount; ++h) grad_q[h].zero(d);
  const T* k = prefix_k<T>(a.prefix, view);
  for (int64_t c = 0; c < slots; ++c) {
    const T* slot = k + (view.start + c) * a.prefix.k_stride.slot;
    for (int h = 0; h < HeadCount; ++h)
      grad_q[h].add(scores[h][c], slot + (head + h) / group * a.prefix.k_stride.head, d);
  }
  for_each_token<T, true>(a.segments, view.row, visible, [&](int64_t i, const T* p) {
    for (int h = 0; h < HeadCount; ++h) {
      const int64_t kv_head = (head + h) / group;
      grad_q[h].add(scores[h][slots + i], p + kv_head * d, d);
      float* to = token_k + (i * shape.kv_heads + kv_head) * d;
      HeadVector<D> sum;
      sum.load(to, d);
      sum.add(scores[h][slots + i], static_cast<const T*>(a.q) + offset + h * d, d);
      sum.store(to, d);
    }
  });
  for (int h = 0; h < HeadCount; ++h) grad_q[h].store(static_cast<T*>(a.grad_q) + offset + h * d, d);
}

template <class T, int D>
void backward_rows(const AttentionBackward& a) {
  const AttentionShape& shape = a.shape;
  const int64_t width = a.prefix.slots + shape.tokens;
  const int64_t token_width = shape.tokens * shape.kv_heads * shape.head_dim;
  const bool parallel = a.rows.count * shape.heads * width * shape.head_dim > (1 << 16);
  Tasks rows(a.rows.count, rows_per_task(a.rows.count, a.threads));
  in_threads(parallel ? a.threads : 1, [&](int, int) {
    constexpr int kSweep = heads_per_sweep<D>();
    Scratch scratch(kSweep * width + 2 * token_width);
    float* scores[2] = {scratch.data, scratch.data + (kSweep - 1) * width};
    float* token_k = scratch.data + kSweep * width;
    float* token_v = token_k + token_width;
    rows.run([&](int64_t position) {
      const RowView view(a.rows, position);
      for (int64_t i = 0; i < 2 * token_width; ++i) token_k[i] = 0;
      for (int64_t query = 0; query < shape.queries; ++query) {
        int64_t head = 0;
        for (; head + kSweep <= shape.heads; head += kSweep)
          backward_heads<T, D, kSweep>(a, view, query, head, scores, token_k, token_v);
        for (; head < shape.heads; ++head)
          backward_heads<T, D, 1>(a, view, query, head, scores, token_k, token_v);
      }
      T* grad_k = static_cast<T*>(a.grad_token_k) + view.row * token_width;
      T* grad_v = static_cast<T*>(a.grad_token_v) + view.row * token_width;
      for (int64_t i = 0; i < token_width; ++i) {
        from_float(token_k[i], grad_k + i);
        from_float(token_v[i], grad_v + i);
      }
    });
  });
}

// dK[slot] = sum over the prefix's rows, steps and queries of ds q, dV[slot] likewise of p grad_out: each written once.
template <class T, int D>
void prefix_gradient_slots(const PrefixGradient& a) {
  const int d = static_cast<int>(a.head_dim);
  const int64_t group = a.heads / a.kv_heads;
  const int64_t bytes = a.prefixes * a.slots * a.kv_heads * d * static_cast<int64_t>(sizeof(T));
  const bool aligned = reinterpret_cast<uintptr_t>(a.grad_k) % 64 == 0 && reinterpret_cast<uintptr_t>(a.grad_v) % 64 == 0;
  const bool past_caches = D > 0 && aligned && bytes > (int64_t{4} << 20);
  const bool parallel = bytes * a.steps.count > (1 << 16);
  Tasks prefixes(a.prefixes, rows_per_task(a.prefixes, a.threads));
  in_threads(parallel ? a.threads : 1, [&](int, int) {
    prefixes.run([&](int64_t s) {
      for (int64_t c = 0; c < a.slots; ++c) {
        for (int64_t kv_head = 0; kv_head < a.kv_heads; ++kv_head) {
          HeadVector<D> grad_k, grad_v;
          grad_k.zero(d);
          grad_v.zero(d);
          for (int64_t position = a.offsets[s]; position < a.offsets[s + 1]; ++position) {
            const int64_t row = a.rows.order[position];
            if (c < a.rows.start[row] || c >= a.rows.end[row]) continue;
            for (int64_t k = 0; k < a.steps.count; ++k) {
              const StepGradient& step = a.steps.items[k];
              for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
                for (int64_t query = 0; query < step.queries; ++query) {
                  const int64_t score = ((row * a.heads + head) * step.queries + query) * a.slots + c;
                  const int64_t vector = ((row * step.queries + query) * a.heads + head) * d;
                  grad_k.add(step.dscores[score], static_cast<const T*>(step.q) + vector, d);
                  const float p = step.probs[score];
                  if (!std::signbit(p)) grad_v.add(p, static_cast<const T*>(step.grad_out) + vector, d);
                }
            }
          }
          const int64_t to = ((s * a.slots + c) * a.kv_heads + kv_head) * d;
          if (past_caches) {
            grad_k.stream(static_cast<T*>(a.grad_k) + to, d);
            grad_v.stream(static_cast<T*>(a.grad_v) + to, d);
          } else {
            grad_k.store(static_cast<T*>(a.grad_k) + to, d);
            grad_v.store(static_cast<T*>(a.grad_v) + to, d);
          }
        }
      }
    });
    stream_fence();
  });
}

void forward(const AttentionForward& a) {
  with_head_width(a.shape.head_dim, [&](auto width) {
    a.shape.dtype == DType::bfloat16 ? forward_rows<bfloat16, width.value>(a) : forward_rows<float, width.value>(a);
  });
}
void backward(const AttentionBackward& a) {
  with_head_width(a.shape.head_dim, [&](auto width) {
    a.shape.dtype == DType::bfloat16 ? backward_rows<bfloat16, width.value>(a) : backward_rows<float, width.value>(a);
  });
}
void prefix_gradient(const PrefixGradient& a) {
  with_head_width(a.head_dim, [&](auto width) {
    a.dtype == DType::bfloat16 ? prefix_gradient_slots<bfloat16, width.value>(a) : prefix_gradient_slots<float, width.value>(a);
  });
}

}  // namespace

namespace REAREC_ISA {
const AttentionKernels attention = {forward, backward, prefix_gradient};
}

}  // namespace rearec
