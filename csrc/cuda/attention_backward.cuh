// Gradients of one step: dq, and ds = p (dp - sum p dp) scale of every score, of which the reasoning tokens' dk and dv
// follow here and the prefix's in attention_prefix_gradient.cuh.
#pragma once
#include "cuda/query_tile.cuh"

namespace rearec::cuda {

// Blocks that a multiprocessor is to hold.
template <int kQueries>
constexpr int kBackwardBlocks = kQueries == 1 ? 6 : 2;

// The scores of the slots that load_slots<L> loads, ahead of their use; 0 where not seen.
template <class L, int kQueries>
__device__ inline void load_scores(const float* scores, int64_t slots, const QueryTile<L, kQueries>& tile,
                                   const PrefixRun& run, int first, float (&to)[kQueries][kUnroll<L>]) {
#pragma unroll
  for (int m = 0; m < kQueries; ++m)
#pragma unroll
    for (int u = 0; u < kUnroll<L>; ++u) {
      const int slot = first + u * L::kVectors + L::vector();
      to[m][u] = run.has(m) && tile.sees(m, slot) ? scores[tile.score_index(m) * slots + slot] : 0.0f;
    }
}

// dp = grad_out . v of all keys into the scratch of ds; `total` takes in this lane's share of sum p dp.
template <class L, int kQueries>
__device__ inline void value_pass_tokens(const AttentionBackward& a, const QueryTile<L, kQueries>& tile,
                                         const HeadVector<L> (&grad_out)[kQueries], float (&total)[kQueries]) {
  for (int first = 0; first < tile.most_visible_tokens(); first += L::kVectors) {
    const int token = first + L::vector();
    Packed<L> values[kQueries];
    load_tokens<Side::value>(a.segments, tile, token, values);
#pragma unroll
    for (int m = 0; m < kQueries; ++m) {
      HeadVector<L> vector;
      values[m].unpack(vector.x);
      float dp = sum_within_vector<L>(grad_out[m].dot(vector));
      if (token >= tile.visible_tokens(m)) continue;
      const int64_t at = tile.score_index(m) * a.shape.tokens + token;
      const float p = a.token_probs[at];
      dp = kept(p, dp, a.dropout.keep);
      total[m] += fabsf(p) * dp;
      if (L::lane() == 0) a.token_dscores[at] = dp;
    }
  }
}

template <class L, int kQueries>
__device__ inline void value_pass_prefix(const AttentionBackward& a, const QueryTile<L, kQueries>& tile,
                                         const PrefixRun& run, const Schedule& schedule,
                                         const HeadVector<L> (&grad_out)[kQueries], float (&total)[kQueries]) {
  constexpr int kKeys = kKeysAtOnce<L>;
  const int head_dim = static_cast<int>(a.shape.head_dim);
  for (int first = run.start + part_of_tile(schedule) * kKeys; first < run.end; first += schedule.parts * kKeys) {
    Packed<L> values[kUnroll<L>];
    load_slots<L>(a.prefix.v, a.prefix.v_stride, run.prefix, tile.kv_head, first, run.end, head_dim, values);
    float p[kQueries][kUnroll<L>];
    load_scores(a.prefix_probs, a.prefix.slots, tile, run, first, p);
    float dp[kQueries][kUnroll<L>];
#pragma unroll
    for (int u = 0; u < kUnroll<L>; ++u) {
      HeadVector<L> vector;
      values[u].unpack(vector.x);
#pragma unroll
      for (int m = 0; m < kQueries; ++m)
        if (run.has(m)) dp[m][u] = grad_out[m].dot(vector);
    }
#pragma unroll
    for (int m = 0; m < kQueries; ++m) {
      if (!run.has(m)) continue;
#pragma unroll
      for (int u = 0; u < kUnroll<L>; ++u) dp[m][u] = sum_within_vector<L>(dp[m][u]);
#pragma unroll
      for (int u = 0; u < kUnroll<L>; ++u) {
        const int slot = first + u * L::kVectors + L::vector();
        if (!tile.sees(m, slot)) continue;
        const float gradient = kept(p[m][u], dp[m][u], a.dropout.keep);
        total[m] += fabsf(p[m][u]) * gradient;
        if (L::lane() == 0) a.prefix_dscores[tile.score_index(m) * a.prefix.slots + slot] = gradient;
      }
    }
  }
}

// dp -> ds in place in [begin, end), 0 in the rest of [0, count).
__device__ inline void write_score_gradients(const float* probs, float* dscores, int begin, int end, int count,
                                             float total, float scale, const Schedule& schedule) {
  for (int i = lane_of_tile(schedule); i < count; i += schedule.parts * kWarp)
    dscores[i] = i >= begin && i < end ? fabsf(probs[i]) * (dscores[i] - total) * scale : 0.0f;
}

// dq = sum ds k
template <class L, int kQueries>
__device__ inline void key_pass_tokens(const AttentionBackward& a, const QueryTile<L, kQueries>& tile,
                                       HeadVector<L> (&grad_q)[kQueries]) {
  for (int first = 0; first < tile.most_visible_tokens(); first += L::kVectors) {
    const int token = first + L::vector();
    Packed<L> keys[kQueries];
    load_tokens<Side::key>(a.segments, tile, token, keys);
#pragma unroll
    for (int m = 0; m < kQueries; ++m) {
      if (token >= tile.visible_tokens(m)) continue;
      HeadVector<L> vector;
      keys[m].unpack(vector.x);
      grad_q[m].add(a.token_dscores[tile.score_index(m) * a.shape.tokens + token], vector);
    }
  }
}

template <class L, int kQueries>
__device__ inline void key_pass_prefix(const AttentionBackward& a, const QueryTile<L, kQueries>& tile,
                                       const PrefixRun& run, const Schedule& schedule,
                                       HeadVector<L> (&grad_q)[kQueries]) {
  constexpr int kKeys = kKeysAtOnce<L>;
  const int head_dim = static_cast<int>(a.shape.head_dim);
  for (int first = run.start + part_of_tile(schedule) * kKeys; first < run.end; first += schedule.parts * kKeys) {
    Packed<L> keys[kUnroll<L>];
    load_slots<L>(a.prefix.k, a.prefix.k_stride, run.prefix, tile.kv_head, first, run.end, head_dim, keys);
    float ds[kQueries][kUnroll<L>];
    load_scores(a.prefix_dscores, a.prefix.slots, tile, run, first, ds);
#pragma unroll
    for (int u = 0; u < kUnroll<L>; ++u) {
      const int slot = first + u * L::kVectors + L::vector();
      HeadVector<L> vector;
      keys[u].unpack(vector.x);
#pragma unroll
      for (int m = 0; m < kQueries; ++m)
        if (run.has(m) && tile.sees(m, slot)) grad_q[m].add(ds[m][u], vector);
    }
  }
}

template <class L, int kQueries>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks<kQueries>)
    attention_backward_kernel(const __grid_constant__ AttentionBackward a, const __grid_constant__ Schedule schedule) {
  using T = typename L::Element;
  if (tile_of_warp(schedule) >= schedule.tiles) return;  // with several parts, the whole block
  const int part = part_of_tile(schedule);
  const int head_dim = static_cast<int>(a.shape.head_dim);
  const int slots = static_cast<int>(a.prefix.slots), tokens = static_cast<int>(a.shape.tokens);
  const QueryTile<L, kQueries> tile(a.shape, a.rows, tile_of_warp(schedule));

  float total[kQueries] = {};
  {
    HeadVector<L> grad_out[kQueries];
#pragma unroll
    for (int m = 0; m < kQueries; ++m)
      grad_out[m].load(static_cast<const T*>(a.grad_out) + tile.vector_offset(m), head_dim, tile.valid[m]);
    if (part == 0) value_pass_tokens(a, tile, grad_out, total);
    for (unsigned waiting = tile.with_prefix(); waiting != 0;)
      value_pass_prefix(a, tile, next_run(tile, waiting), schedule, grad_out, total);
  }
#pragma unroll
  for (int m = 0; m < kQueries; ++m) total[m] = sum_over_vectors<L>(total[m]);
  if (schedule.parts > 1) {
    __shared__ float of_part[kWarpsPerBlock][kQueries];
#pragma unroll
    for (int m = 0; m < kQueries; ++m)
      if (lane_of_warp() == 0) of_part[part][m] = total[m];
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kQueries; ++m) {
      total[m] = 0;
      for (int p = 0; p < kWarpsPerBlock; ++p) total[m] += of_part[p][m];
    }
  }

  sync_tile(schedule);  // dp is in global memory
#pragma unroll
  for (int m = 0; m < kQueries; ++m) {
    if (!tile.valid[m]) continue;
    const int64_t at = tile.score_index(m);
    write_score_gradients(a.prefix_probs + at * slots, a.prefix_dscores + at * slots, tile.start[m], tile.end[m], slots,
                          total[m], a.shape.scale, schedule);
    write_score_gradients(a.token_probs + at * tokens, a.token_dscores + at * tokens, 0, tile.visible_tokens(m), tokens,
                          total[m], a.shape.scale, schedule);
  }
  sync_tile(schedule);  // ds is

  HeadVector<L> grad_q[kQueries];
#pragma unroll
  for (int m = 0; m < kQueries; ++m) grad_q[m].zero();
  if (part == 0) key_pass_tokens(a, tile, grad_q);
  for (unsigned waiting = tile.with_prefix(); waiting != 0;)
    key_pass_prefix(a, tile, next_run(tile, waiting), schedule, grad_q);
#pragma unroll
  for (int m = 0; m < kQueries; ++m)
#pragma unroll
    for (int e = 0; e < L::kElements; ++e) grad_q[m].x[e] = sum_over_vectors<L>(grad_q[m].x[e]);
  if (schedule.parts > 1) {
    __shared__ float of_part[kWarpsPerBlock][kQueries][kWarp * L::kElements];
    const int lane = lane_of_warp();
#pragma unroll
    for (int m = 0; m < kQueries; ++m)
#pragma unroll
      for (int e = 0; e < L::kElements; ++e) of_part[part][m][e * kWarp + lane] = grad_q[m].x[e];
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kQueries; ++m)
#pragma unroll
      for (int e = 0; e < L::kElements; ++e) {
        float sum = 0;
        for (int p = 0; p < kWarpsPerBlock; ++p) sum += of_part[p][m][e * kWarp + lane];
        grad_q[m].x[e] = sum;
      }
  }
#pragma unroll
  for (int m = 0; m < kQueries; ++m)
    if (tile.valid[m] && part == 0 && L::vector() == 0)
      grad_q[m].store(static_cast<T*>(a.grad_q) + tile.vector_offset(m), head_dim);
}

// dk = sum ds q and dv = sum p grad_out of each reasoning token, over the query heads of its kv head and the new tokens
// that see it. A vector of lanes for each of [rows, tokens, kv_heads].
template <class L>
__global__ void __launch_bounds__(kThreads, 5)
    token_gradient_kernel(const __grid_constant__ AttentionBackward a) {
  using T = typename L::Element;
  const AttentionShape& shape = a.shape;
  const unsigned tokens = static_cast<unsigned>(shape.tokens), kv_heads = static_cast<unsigned>(shape.kv_heads);
  const unsigned index = (blockIdx.x * kWarpsPerBlock + warp_of_block()) * L::kVectors + L::vector();
  if (index >= a.rows.count * tokens * kv_heads) return;
  const unsigned kv_head = index % kv_heads;
  const int token = static_cast<int>(index / kv_heads % tokens), row = static_cast<int>(index / kv_heads / tokens);
  const int64_t group = shape.heads / shape.kv_heads;
  const int head_dim = static_cast<int>(shape.head_dim);
  // Earlier new tokens do not see it: what their queries hold, NaN perhaps, is left alone.
  const int64_t unseen = token - (shape.tokens - shape.queries);
  HeadVector<L> grad_k, grad_v;
  grad_k.zero();
  grad_v.zero();
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int64_t query = unseen > 0 ? unseen : 0; query < shape.queries; ++query) {
      const int64_t at = ((row * shape.heads + head) * shape.queries + query) * shape.tokens + token;
      const int64_t offset = ((row * shape.queries + query) * shape.heads + head) * head_dim;
      HeadVector<L> vector;
      vector.load(static_cast<const T*>(a.q) + offset, head_dim, true);
      grad_k.add(a.token_dscores[at], vector);
      vector.load(static_cast<const T*>(a.grad_out) + offset, head_dim, true);
      grad_v.add(kept(a.token_probs[at], a.token_probs[at], a.dropout.keep), vector);
    }
  }
  const int64_t head_offset = int64_t{kv_head} * head_dim;
  const T* to_k = token_vector<T, Side::key>(a.grad_segments, row, token, head_offset);
  const T* to_v = token_vector<T, Side::value>(a.grad_segments, row, token, head_offset);
  grad_k.store(const_cast<T*>(to_k), head_dim);
  grad_v.store(const_cast<T*>(to_v), head_dim);
}

}  // namespace rearec::cuda
