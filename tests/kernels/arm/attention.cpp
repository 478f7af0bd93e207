// Attention and its gradients, in ragged shapes and both dtypes.
#include "cpu/attention.h"

#include "check.h"

using namespace rearec;

namespace {

struct Sizes {
  int64_t rows, slots, queries, heads, kv_heads, dim;
};

template <class T>
void check(const Sizes& n, DType dtype) {
  const int64_t tokens = n.queries + 1, group = n.heads / n.kv_heads;
  const double scale = 0.3, tolerance = dtype == DType::bfloat16 ? 1.0 / 128 : 1e-5;
  const auto q = rounded<T>(random_floats(n.rows * n.queries * n.heads * n.dim));
  const auto grad_out = rounded<T>(random_floats(static_cast<int64_t>(q.size())));
  const auto k = rounded<T>(random_floats(n.rows * n.slots * n.kv_heads * n.dim));
  const auto v = rounded<T>(random_floats(static_cast<int64_t>(k.size())));
  const auto token_k = rounded<T>(random_floats(n.rows * tokens * n.kv_heads * n.dim));
  const auto token_v = rounded<T>(random_floats(static_cast<int64_t>(token_k.size())));
  std::vector<int32_t> start, end, number, offsets{0};
  for (int32_t r = 0; r < n.rows; ++r) {
    start.push_back(r % static_cast<int32_t>(n.slots + 1));
    end.push_back(static_cast<int32_t>(n.slots));
    number.push_back(r);
    offsets.push_back(r + 1);
  }

  // In float64.
  const auto wide_q = widened(q), wide_grad = widened(grad_out), wide_k = widened(k), wide_v = widened(v);
  const auto wide_token_k = widened(token_k), wide_token_v = widened(token_v);
  std::vector<double> out(q.size()), grad_q(q.size()), grad_k(k.size()), grad_v(v.size());
  std::vector<double> grad_token_k(token_k.size()), grad_token_v(token_v.size());
  for (int64_t r = 0; r < n.rows; ++r)
    for (int64_t i = 0; i < n.queries; ++i)
      for (int64_t h = 0; h < n.heads; ++h) {
        const int64_t at = ((r * n.queries + i) * n.heads + h) * n.dim, kv = h / group;
        const int64_t slots = n.slots - start[r], visible = slots + tokens - n.queries + i + 1;
        const auto place = [&](int64_t c) {  // of a key, negative in the prefix
          return c < slots ? -1 - ((r * n.slots + start[r] + c) * n.kv_heads + kv) * n.dim
                           : ((r * tokens + c - slots) * n.kv_heads + kv) * n.dim;
        };
        const auto in = [&](const std::vector<double>& prefix, const std::vector<double>& token, int64_t c) {
          return place(c) < 0 ? &prefix[-1 - place(c)] : &token[place(c)];
        };
        std::vector<double> p, dp;
        double norm = 0, mean = 0;
        for (int64_t c = 0; c < visible; ++c) {
          double score = 0, gradient = 0;
          for (int64_t j = 0; j < n.dim; ++j) {
            score += wide_q[at + j] * in(wide_k, wide_token_k, c)[j];
            gradient += wide_grad[at + j] * in(wide_v, wide_token_v, c)[j];
          }
          p.push_back(std::exp(score * scale));
          dp.push_back(gradient);
          norm += p[c];
        }
        for (int64_t c = 0; c < visible; ++c) mean += (p[c] /= norm) * dp[c];
        for (int64_t c = 0; c < visible; ++c)
          for (int64_t j = 0; j < n.dim; ++j) {
            const double ds = p[c] * (dp[c] - mean) * scale;
            out[at + j] += p[c] * in(wide_v, wide_token_v, c)[j];
            grad_q[at + j] += ds * in(wide_k, wide_token_k, c)[j];
            const_cast<double*>(in(grad_k, grad_token_k, c))[j] += ds * wide_q[at + j];
            const_cast<double*>(in(grad_v, grad_token_v, c))[j] += p[c] * wide_grad[at + j];
          }
      }

  // By the kernels.
  const int64_t width = n.kv_heads * n.dim;
  const AttentionShape shape{dtype, n.queries, n.heads, n.kv_heads, n.dim, tokens, static_cast<float>(scale)};
  const PrefixStrides strides{n.slots * width, width, n.dim};
  const Prefix prefix{k.data(), v.data(), strides, strides, n.slots};
  const Rows rows{start.data(), end.data(), number.data(), number.data(), n.rows};
  const TokenSegment segment{token_k.data(), token_v.data(), tokens * width, width, tokens};
  std::vector<float> prefix_probs(n.rows * n.heads * n.queries * n.slots), prefix_dscores(prefix_probs.size());
  std::vector<float> token_probs(n.rows * n.heads * n.queries * tokens);
  std::vector<T> got(q.size()), got_q(q.size()), got_k(k.size()), got_v(v.size());
  std::vector<T> got_token_k(token_k.size()), got_token_v(token_v.size());
  for (int threads : {1, 2}) {
    baseline::attention.forward({shape, prefix, rows, {&segment, 1}, 0.0, 0, MaskRows{}, q.data(), nullptr, nullptr,
                                 got.data(), prefix_probs.data(), token_probs.data(), threads});
    expect_close("attention", widened(got), out, tolerance);
    baseline::attention.backward({shape, prefix, rows, {&segment, 1}, 0.0, q.data(), grad_out.data(),
                                  prefix_probs.data(), token_probs.data(), got_q.data(), prefix_dscores.data(),
                                  got_token_k.data(), got_token_v.data(), threads});
    expect_close("attention, gradient of q", widened(got_q), grad_q, tolerance);
    expect_close("attention, gradient of the tokens' k", widened(got_token_k), grad_token_k, tolerance);
    expect_close("attention, gradient of the tokens' v", widened(got_token_v), grad_token_v, tolerance);
    const StepGradient step{prefix_dscores.data(), prefix_probs.data(), q.data(), grad_out.data(), n.queries};
    baseline::attention.prefix_gradient({dtype, {&step, 1}, rows, offsets.data(), n.rows, n.slots, n.heads, n.kv_heads,
                                         n.dim, got_k.data(), got_v.data(), threads});
    expect_close("attention, gradient of the prefix's k", widened(got_k), grad_k, tolerance);
    expect_close("attention, gradient of the prefix's v", widened(got_v), grad_v, tolerance);
  }
}

}  // namespace

void check_attention() {
  for (const Sizes& sizes : {Sizes{1, 1, 1, 1, 1, 32}, Sizes{5, 7, 2, 4, 2, 64}, Sizes{3, 9, 1, 3, 3, 17},
                             Sizes{2, 5, 3, 2, 1, 128}, Sizes{20, 60, 1, 2, 2, 256}}) {
    check<float>(sizes, DType::float32);
    check<bfloat16>(sizes, DType::bfloat16);
  }
}
