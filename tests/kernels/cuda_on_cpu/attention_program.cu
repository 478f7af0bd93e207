// Runs the attention kernels of csrc/cuda over ragged problems and compares everything they write with float64 loops.
// Outputs start as NaN, so that what is not written shows. Built with sanitizers, and from a copy of csrc/cuda with faults,
// of which the program's argument switches one on (-1: the fault that is planted here).
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

int planted_fault = 0;

#include "cuda/attention_backward.cuh"
#include "cuda/attention_forward.cuh"
#include "cuda/attention_prefix_gradient.cuh"
#include "cuda/launch.h"

namespace {

using namespace rearec;
using namespace rearec::cuda;

struct Sizes {
  int prefixes, slots, rows, heads, kv_heads, head_dim, queries;
  std::vector<int> earlier;  // tokens of each earlier call
  double dropout;
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::float32;
  static constexpr double tolerance = 2e-5;
};
template <>
struct DTypeOf<__nv_bfloat16> {
  static constexpr DType value = DType::bfloat16;
  static constexpr double tolerance = 2e-2;  // results are rounded to 8 bits
};
template <>
struct DTypeOf<__half> {
  static constexpr DType value = DType::float16;
  static constexpr double tolerance = 3e-3;
};

// Random or NaN-filled elements of exactly this many: one past the end is an error to the address sanitizer.
template <class T>
struct Array {
  std::vector<T> data;
  explicit Array(size_t size) : data(size) {
    for (T& x : data) from_float(std::numeric_limits<float>::quiet_NaN(), &x);
  }
  Array(size_t size, std::mt19937& generator) : data(size) {
    std::normal_distribution<float> normal;
    for (T& x : data) from_float(normal(generator), &x);
  }
  double operator[](size_t i) const { return to_float(data[i]); }
  T* get() { return data.data(); }
};

struct Errors {
  double tolerance;
  int count = 0;
  void compare(const char* what, double got, double expected) {
    if (std::fabs(got - expected) <= tolerance * (1 + std::fabs(expected))) return;
    if (count++ == 0) std::printf("  %s: got %g, expected %g\n", what, got, expected);
  }
};

template <class L, int kQueries>
bool run(const Sizes& z, int parts) {
  using T = typename L::Element;
  std::mt19937 generator(7);
  const int D = z.head_dim, Q = z.queries, H = z.heads, G = z.kv_heads, group = H / G, C = z.slots;
  int earlier = 0;
  for (int count : z.earlier) earlier += count;
  const int tokens = earlier + Q;

  Array<T> prefix_k(size_t(z.prefixes) * C * G * D, generator), prefix_v(prefix_k.data.size(), generator);
  Array<T> q(size_t(z.rows) * Q * H * D, generator), grad_out(q.data.size(), generator);
  Array<T> new_k(size_t(z.rows) * Q * G * D, generator), new_v(new_k.data.size(), generator);
  Array<T> buffer_k(size_t(z.rows) * tokens * G * D), buffer_v(buffer_k.data.size());
  std::vector<Array<T>> old_k, old_v;
  for (int count : z.earlier) {
    old_k.emplace_back(size_t(z.rows) * count * G * D, generator);
    old_v.emplace_back(size_t(z.rows) * count * G * D, generator);
  }
  std::vector<int32_t> start(z.rows), end(z.rows), row_prefix(z.rows), order, offsets{0};
  for (int r = 0; r < z.rows; ++r) {
    start[r] = static_cast<int>(generator() % (C + 1));
    end[r] = static_cast<int>(generator() % (C + 1));
    if (start[r] > end[r]) std::swap(start[r], end[r]);
    if (r == 1) start[r] = end[r];  // an empty prefix
    row_prefix[r] = static_cast<int>(generator() % z.prefixes);
  }
  for (int s = 0; s < z.prefixes; ++s) {
    for (int r = 0; r < z.rows; ++r)
      if (row_prefix[r] == s) order.push_back(r);
    offsets.push_back(static_cast<int>(order.size()));
  }

  const int64_t seed = 12345;
  const float scale = 1 / std::sqrt(static_cast<float>(D));
  AttentionForward f{};
  f.shape = {DTypeOf<T>::value, Q, H, G, D, tokens, scale};
  const int64_t slot_stride = int64_t{G} * D;
  f.prefix = {prefix_k.get(), prefix_v.get(), {C * slot_stride, slot_stride, D}, {C * slot_stride, slot_stride, D}, C};
  f.rows = {start.data(), end.data(), row_prefix.data(), order.data(), z.rows};
  f.prefixes = z.prefixes;
  // Rows numbered as those of a larger call: 2 at a time from the fourth of every seven.
  if (z.dropout > 0) f.dropout = {&seed, dropout_threshold(z.dropout), 0, {3, 2, 7}};
  f.dropout.keep = static_cast<float>(1 / (1 - z.dropout));
  for (size_t s = 0; s < z.earlier.size(); ++s)
    f.segments.items[f.segments.count++] = {old_k[s].get(), old_v[s].get(), z.earlier[s] * slot_stride, slot_stride,
                                              z.earlier[s]};
  f.append = {new_k.get(), new_v.get(), buffer_k.get(), buffer_v.get(), tokens * slot_stride, slot_stride};
  if (planted_fault == -1)  // a race: the new tokens read where another warp writes them
    f.segments.items[f.segments.count++] = {buffer_k.get() + earlier * slot_stride, buffer_v.get() + earlier * slot_stride,
                                              tokens * slot_stride, slot_stride, Q};
  else
    f.segments.items[f.segments.count++] = {new_k.get(), new_v.get(), Q * slot_stride, slot_stride, Q};
  f.q = q.get();
  Array<T> out(q.data.size()), grad_q(q.data.size());
  const size_t scores = size_t(z.rows) * H * Q;
  Array<float> prefix_probs(scores * C), token_probs(scores * tokens);
  Array<float> prefix_dscores(scores * C), token_dscores(scores * tokens);
  f.out = out.get();
  f.prefix_probs = prefix_probs.get();
  f.token_probs = token_probs.get();

  const auto tiles = static_cast<unsigned>(ceil_divide(queries_per_kv_head(f.shape, f.rows), kQueries) * G);
  const Schedule schedule{tiles, parts};
  launch("forward", attention_forward_kernel<L, kQueries>, int64_t{tiles} * parts, nullptr, f, schedule);

  AttentionBackward b{};
  b.shape = f.shape;
  b.prefix = f.prefix;
  b.rows = f.rows;
  b.prefixes = f.prefixes;
  b.segments = f.segments;
  b.dropout = f.dropout;
  b.q = q.get();
  b.grad_out = grad_out.get();
  b.prefix_probs = prefix_probs.get();
  b.token_probs = token_probs.get();
  b.grad_q = grad_q.get();
  b.prefix_dscores = prefix_dscores.get();
  b.token_dscores = token_dscores.get();
  Array<T> grad_token_k(size_t(z.rows) * tokens * G * D), grad_token_v(grad_token_k.data.size());
  b.grad_segments.count = 1;
  b.grad_segments.items[0] = {grad_token_k.get(), grad_token_v.get(), tokens * slot_stride, slot_stride, tokens};
  launch("backward", attention_backward_kernel<L, kQueries>, int64_t{tiles} * parts, nullptr, b, schedule);
  launch("token", token_gradient_kernel<L>, ceil_divide(int64_t{z.rows} * tokens * G, L::kVectors), nullptr, b);

  PrefixGradient g{};
  g.dtype = f.shape.dtype;
  g.steps.count = 2;  // the same step twice: twice the gradient
  for (int s = 0; s < 2; ++s) g.steps.items[s] = {prefix_dscores.get(), prefix_probs.get(), q.get(), grad_out.get(), Q};
  g.rows = f.rows;
  g.offsets = offsets.data();
  g.prefixes = z.prefixes;
  g.slots = C;
  g.heads = H;
  g.kv_heads = G;
  g.head_dim = D;
  Array<T> grad_k(prefix_k.data.size()), grad_v(prefix_v.data.size());
  g.grad_k = grad_k.get();
  g.grad_v = grad_v.get();
  const auto blocks = static_cast<unsigned>(z.prefixes * G * ceil_divide(C, kKeysAtOnce<L>));
  launch("prefix", attention_prefix_gradient_kernel<L>, int64_t{blocks} * parts, nullptr, g, Schedule{blocks, parts});

  // The same in float64.
  Errors errors{DTypeOf<T>::tolerance};
  std::vector<double> dk(prefix_k.data.size()), dv(dk), dtk(grad_token_k.data.size()), dtv(dtk);
  for (int r = 0; r < z.rows; ++r)
    for (int h = 0; h < H; ++h)
      for (int i = 0; i < Q; ++i) {
        const size_t vector = ((size_t(r) * Q + i) * H + h) * D, at = (size_t(r) * H + h) * Q + i;
        struct Key {
          const Array<T>*k, *v;
          size_t offset;
          int slot;
        };
        std::vector<Key> keys;
        for (int c = start[r]; c < end[r]; ++c)
          keys.push_back({&prefix_k, &prefix_v, ((size_t(row_prefix[r]) * C + c) * G + h / group) * D, c});
        int token = 0;
        for (size_t s = 0; s < z.earlier.size(); ++s)
          for (int t = 0; t < z.earlier[s]; ++t)
            keys.push_back(
                {&old_k[s], &old_v[s], ((size_t(r) * z.earlier[s] + t) * G + h / group) * D, C + token++});
        for (int t = 0; t <= i; ++t)
          keys.push_back({&new_k, &new_v, ((size_t(r) * Q + t) * G + h / group) * D, C + token++});
        std::vector<double> p(keys.size()), dp(keys.size()), kept(keys.size());
        double sum = 0, total = 0;
        for (size_t k = 0; k < keys.size(); ++k) {
          double x = 0, y = 0;
          for (int d = 0; d < D; ++d) {
            x += q[vector + d] * (*keys[k].k)[keys[k].offset + d];
            y += grad_out[vector + d] * (*keys[k].v)[keys[k].offset + d];
          }
          sum += p[k] = std::exp(x * scale);
          const bool dropped = z.dropout > 0 && philox_word(seed, keys[k].slot, earlier + i, h, 7 * (r / 2) + 3 + r % 2) < f.dropout.threshold;
          kept[k] = dropped ? 0 : 1 / (1 - z.dropout);
          dp[k] = y * kept[k];
        }
        for (size_t k = 0; k < keys.size(); ++k) total += (p[k] /= sum) * dp[k];
        for (int d = 0; d < D; ++d) {
          double o = 0, dq = 0;
          for (size_t k = 0; k < keys.size(); ++k) {
            const double ds = p[k] * (dp[k] - total) * scale;
            o += p[k] * kept[k] * (*keys[k].v)[keys[k].offset + d];
            dq += ds * (*keys[k].k)[keys[k].offset + d];
            const bool in_prefix = keys[k].slot < C;
            const size_t to = in_prefix ? keys[k].offset + d : ((size_t(r) * tokens + keys[k].slot - C) * G + h / group) * D + d;
            // The prefix gets p as it was saved, grad_out being divided by the keep probability elsewhere.
            (in_prefix ? dk : dtk)[to] += (in_prefix ? 2 : 1) * ds * q[vector + d];
            (in_prefix ? dv : dtv)[to] += (in_prefix ? 2 * (kept[k] > 0) : kept[k]) * p[k] * grad_out[vector + d];
          }
          errors.compare("out", out[vector + d], o);
          errors.compare("grad_q", grad_q[vector + d], dq);
        }
        std::vector<double> expected(C + tokens), dropped(C + tokens);
        for (size_t k = 0; k < keys.size(); ++k) {
          expected[keys[k].slot] = p[k];
          dropped[keys[k].slot] = kept[k] == 0;
        }
        for (int c = 0; c < C + tokens; ++c) {
          const double got = c < C ? prefix_probs[at * C + c] : token_probs[at * tokens + c - C];
          errors.compare("probability", got, dropped[c] ? -expected[c] : expected[c]);
        }
      }
  for (size_t i = 0; i < dk.size(); ++i) {
    errors.compare("grad_k of the prefix", grad_k[i], dk[i]);
    errors.compare("grad_v of the prefix", grad_v[i], dv[i]);
  }
  for (size_t i = 0; i < dtk.size(); ++i) {
    errors.compare("grad_k of the tokens", grad_token_k[i], dtk[i]);
    errors.compare("grad_v of the tokens", grad_token_v[i], dtv[i]);
  }
  for (int r = 0; r < z.rows; ++r)
    for (int i = 0; i < Q; ++i)
      for (int d = 0; d < G * D; ++d) {
        const size_t to = (size_t(r) * tokens + earlier + i) * G * D + d, from = (size_t(r) * Q + i) * G * D + d;
        errors.compare("appended k", buffer_k[to], new_k[from]);
        errors.compare("appended v", buffer_v[to], new_v[from]);
      }
  std::printf("%zu bytes, width %d of %d, %d queries, %d parts: %s\n", sizeof(T), D, L::kCapacity, kQueries, parts,
              errors.count ? "WRONG" : "ok");
  return errors.count == 0;
}

template <class L>
bool run_all(const std::vector<Sizes>& problems) {
  bool ok = true;
  for (const Sizes& z : problems)
    for (int parts : {1, kWarpsPerBlock}) ok = run<L, 1>(z, parts) && run<L, kSharedQueries>(z, parts) && ok;
  return ok;
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) planted_fault = std::atoi(arguments[1]);
  const std::vector<Sizes> problems = {
      {3, 37, 7, 4, 2, 24, 1, {1, 2}, 0.0},
      {2, 20, 5, 2, 2, 32, 2, {}, 0.3},
  };
  bool ok = run_all<Layout<float, 32, 4>>(problems);
#if !defined(REAREC_ONE_LAYOUT)
  ok = run_all<Layout<__nv_bfloat16, 32, 8>>(problems) && ok;
  ok = run_all<Layout<float, 256, 1>>({{2, 6, 3, 2, 2, 37, 1, {1}, 0.2}}) && ok;
#if !defined(REAREC_FEW_LAYOUTS)
  const std::vector<Sizes> wide = {{2, 11, 3, 2, 1, 200, 1, {1}, 0.2}};
  ok = run_all<Layout<__half, 256, 8>>(wide) && ok;
  ok = run_all<Layout<float, 256, 4>>(wide) && ok;
#endif
#endif
  return ok ? 0 : 1;
}
