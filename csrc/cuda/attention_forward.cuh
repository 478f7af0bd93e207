// Appends the new reasoning tokens and attends to the prefix and all tokens, in one pass over K and V.
#pragma once
#include "cuda/query_tile.cuh"
#include "philox.h"

namespace rearec::cuda {

// Blocks that a multiprocessor is to hold.
template <int kQueries>
constexpr int kForwardBlocks = kQueries == 1 ? 5 : 2;

// A softmax-weighted sum that takes in keys as they come. Each vector of lanes has one of its own until they are merged.
template <class L>
struct OnlineSoftmax {
  float largest, sum;
  HeadVector<L> out;

  __device__ void clear() {
    largest = -INFINITY;
    sum = 0;
    out.zero();
  }
  // Makes `most` the score that weights are relative to.
  __device__ void rescale(float most) {
    const float shrink = expf(largest - (most == -INFINITY ? 0.0f : most));
    sum *= shrink;
    out.scale(shrink);
    largest = most;
  }
  // Turns scores (-inf: not seen) into weights of their values, which `add` then takes.
  template <int kCount>
  __device__ void weigh(float (&score)[kCount]) {
    float most = largest;
#pragma unroll
    for (int u = 0; u < kCount; ++u) most = fmaxf(most, score[u]);
    rescale(most);
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
      score[u] = expf(score[u] - (most == -INFINITY ? 0.0f : most));
      sum += score[u];
    }
  }
  // Values of weight 0 are left out: what a query does not see may be anything.
  __device__ void add(float weight, const HeadVector<L>& value) {
    if (weight != 0) out.add(weight, value);
  }
  __device__ void merge_vectors() {
    rescale(max_over_vectors<L>(largest));
    sum = sum_over_vectors<L>(sum);
#pragma unroll
    for (int e = 0; e < L::kElements; ++e) out.x[e] = sum_over_vectors<L>(out.x[e]);
  }
};

// Whether dropout drops a key slot of query m.
template <class L, int kQueries>
__device__ inline bool drops(const Dropout& dropout, const QueryTile<L, kQueries>& tile, int m, int slot) {
  const uint32_t word =
      philox_word(static_cast<uint64_t>(*dropout.seed), static_cast<uint32_t>(slot),
                  static_cast<uint32_t>(tile.own_token(m)), static_cast<uint32_t>(tile.head[m]),
                  dropout.rows.number(static_cast<uint32_t>(tile.row[m])));
  return word < dropout.threshold;
}

// Bit i: whether it drops the key slot first + i. Called by all lanes, each of which looks at one slot.
template <class L, int kQueries>
__device__ inline unsigned dropped_slots(const Dropout& dropout, const QueryTile<L, kQueries>& tile, int m, int first) {
  return __ballot_sync(kAllLanes, drops(dropout, tile, m, first + lane_of_warp()));
}

template <class L, int kQueries>
__device__ inline void append_tokens(const AttentionForward& a, const QueryTile<L, kQueries>& tile) {
  using T = typename L::Element;
  const int64_t kv_heads = a.shape.kv_heads;
  const int head_dim = static_cast<int>(a.shape.head_dim);
#pragma unroll
  for (int m = 0; m < kQueries; ++m) {
    // Of the query heads that share a kv head, the first one appends.
    if (!tile.valid[m] || tile.head[m] * kv_heads != tile.kv_head * a.shape.heads || L::vector() != 0) continue;
    const int64_t head_offset = int64_t{tile.kv_head} * head_dim;
    const int64_t from = (tile.row[m] * a.shape.queries + tile.query[m]) * kv_heads * head_dim + head_offset;
    const int64_t to = tile.row[m] * a.append.row_stride + tile.own_token(m) * a.append.token_stride + head_offset;
    Packed<L> k, v;
    k.load(static_cast<const T*>(a.append.k) + from, head_dim, true);
    v.load(static_cast<const T*>(a.append.v) + from, head_dim, true);
    k.store(static_cast<T*>(a.append.buffer_k) + to, head_dim);
    v.store(static_cast<T*>(a.append.buffer_v) + to, head_dim);
  }
}

template <class L, int kQueries>
__device__ inline void attend_tokens(const AttentionForward& a, const QueryTile<L, kQueries>& tile,
                                     const HeadVector<L> (&q)[kQueries], OnlineSoftmax<L> (&softmax)[kQueries]) {
  for (int first = 0; first < tile.most_visible_tokens(); first += L::kVectors) {
    const int token = first + L::vector();
    Packed<L> keys[kQueries], values[kQueries];
    load_tokens<Side::key>(a.segments, tile, token, keys);
    load_tokens<Side::value>(a.segments, tile, token, values);
#pragma unroll
    for (int m = 0; m < kQueries; ++m) {
      HeadVector<L> vector;
      keys[m].unpack(vector.x);
      float score[1] = {sum_within_vector<L>(q[m].dot(vector)) * a.shape.scale};
      const bool seen = token < tile.visible_tokens(m);
      if (!seen) score[0] = -INFINITY;
      if (a.token_probs && seen && L::lane() == 0) a.token_probs[tile.score_index(m) * a.shape.tokens + token] = score[0];
      softmax[m].weigh(score);
      if (a.dropout.seed) {
        const unsigned dropped = dropped_slots(a.dropout, tile, m, static_cast<int>(a.prefix.slots) + first);
        if (dropped >> L::vector() & 1) score[0] = 0;
      }
      values[m].unpack(vector.x);
      softmax[m].add(score[0], vector);
    }
  }
}

template <class L, int kQueries>
__device__ inline void attend_prefix(const AttentionForward& a, const QueryTile<L, kQueries>& tile,
                                     const PrefixRun& run, const Schedule& schedule,
                                     const HeadVector<L> (&q)[kQueries], OnlineSoftmax<L> (&softmax)[kQueries]) {
  constexpr int kKeys = kKeysAtOnce<L>;
  static_assert(kKeys <= kWarp, "dropped_slots covers a warp's width of slots");
  const int head_dim = static_cast<int>(a.shape.head_dim);
  for (int first = run.start + part_of_tile(schedule) * kKeys; first < run.end; first += schedule.parts * kKeys) {
    Packed<L> keys[kUnroll<L>], values[kUnroll<L>];
    load_slots<L>(a.prefix.k, a.prefix.k_stride, run.prefix, tile.kv_head, first, run.end, head_dim, keys);
    load_slots<L>(a.prefix.v, a.prefix.v_stride, run.prefix, tile.kv_head, first, run.end, head_dim, values);
    float weight[kQueries][kUnroll<L>];
    HeadVector<L> vector;
#pragma unroll
    for (int u = 0; u < kUnroll<L>; ++u) {
      keys[u].unpack(vector.x);
#pragma unroll
      for (int m = 0; m < kQueries; ++m)
        if (run.has(m)) weight[m][u] = q[m].dot(vector);
    }
#pragma unroll
    for (int m = 0; m < kQueries; ++m) {
      if (!run.has(m)) continue;
#pragma unroll
      for (int u = 0; u < kUnroll<L>; ++u) {
        const int slot = first + u * L::kVectors + L::vector();
        const bool seen = tile.sees(m, slot);
        const float score = sum_within_vector<L>(weight[m][u]) * a.shape.scale;
        if (a.prefix_probs && seen && L::lane() == 0) a.prefix_probs[tile.score_index(m) * a.prefix.slots + slot] = score;
        weight[m][u] = seen ? score : -INFINITY;
      }
      softmax[m].weigh(weight[m]);
      if (a.dropout.seed) {
        const unsigned dropped = dropped_slots(a.dropout, tile, m, first);
#pragma unroll
        for (int u = 0; u < kUnroll<L>; ++u)
          if (dropped >> (u * L::kVectors + L::vector()) & 1) weight[m][u] = 0;
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll<L>; ++u) {
      values[u].unpack(vector.x);
#pragma unroll
      for (int m = 0; m < kQueries; ++m)
        if (run.has(m)) softmax[m].add(weight[m][u], vector);
    }
  }
}

// Turns the scores [begin, end) of query m, whose first is that of key slot `slot`, into probabilities, in place, and
// fills the rest of [0, count) with 0.
template <class L, int kQueries>
__device__ inline void write_probabilities(const Dropout& dropout, const QueryTile<L, kQueries>& tile, int m,
                                           const OnlineSoftmax<L>& softmax, const Schedule& schedule, float* scores,
                                           int begin, int end, int count, int slot) {
  const float inverse = 1.0f / softmax.sum;
  for (int i = lane_of_tile(schedule); i < count; i += schedule.parts * kWarp) {
    float p = 0;
    if (i >= begin && i < end) {
      p = expf(scores[i] - softmax.largest) * inverse;
      if (dropout.seed && drops(dropout, tile, m, slot + i)) p = -p;
    }
    scores[i] = p;
  }
}

template <class L, int kQueries>
__global__ void __launch_bounds__(kThreads, kForwardBlocks<kQueries>)
    attention_forward_kernel(const __grid_constant__ AttentionForward a, const __grid_constant__ Schedule schedule) {
  using T = typename L::Element;
  if (tile_of_warp(schedule) >= schedule.tiles) return;  // with several parts, the whole block
  const int part = part_of_tile(schedule);
  const int head_dim = static_cast<int>(a.shape.head_dim);
  const QueryTile<L, kQueries> tile(a.shape, a.rows, tile_of_warp(schedule));

  HeadVector<L> q[kQueries];
  OnlineSoftmax<L> softmax[kQueries];
#pragma unroll
  for (int m = 0; m < kQueries; ++m) {
    q[m].load(static_cast<const T*>(a.q) + tile.vector_offset(m), head_dim, tile.valid[m]);
    softmax[m].clear();
  }
  if (part == 0) {
    if (a.append.k) append_tokens(a, tile);
    attend_tokens(a, tile, q, softmax);
  }
  for (unsigned waiting = tile.with_prefix(); waiting != 0;)
    attend_prefix(a, tile, next_run(tile, waiting), schedule, q, softmax);
#pragma unroll
  for (int m = 0; m < kQueries; ++m) softmax[m].merge_vectors();

  if (schedule.parts > 1) {
    __shared__ float largest[kWarpsPerBlock][kQueries], sum[kWarpsPerBlock][kQueries];
    __shared__ float out[kWarpsPerBlock][kQueries][kWarp * L::kElements];
    const int lane = lane_of_warp();
#pragma unroll
    for (int m = 0; m < kQueries; ++m) {
      if (lane == 0) {
        largest[part][m] = softmax[m].largest;
        sum[part][m] = softmax[m].sum;
      }
#pragma unroll
      for (int e = 0; e < L::kElements; ++e) out[part][m][e * kWarp + lane] = softmax[m].out.x[e];
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kQueries; ++m) {
      float most = largest[0][m];
      for (int p = 1; p < kWarpsPerBlock; ++p) most = fmaxf(most, largest[p][m]);
      softmax[m].clear();
      softmax[m].largest = most;
      for (int p = 0; p < kWarpsPerBlock; ++p) {
        const float shrink = expf(largest[p][m] - (most == -INFINITY ? 0.0f : most));
        softmax[m].sum += shrink * sum[p][m];
#pragma unroll
        for (int e = 0; e < L::kElements; ++e) softmax[m].out.x[e] += shrink * out[p][m][e * kWarp + lane];
      }
    }
  }

  const int slots = static_cast<int>(a.prefix.slots), tokens = static_cast<int>(a.shape.tokens);
  if (a.token_probs) sync_tile(schedule);  // the scores in global memory
#pragma unroll
  for (int m = 0; m < kQueries; ++m) {
    if (!tile.valid[m]) continue;
    if (a.token_probs) {
      const int64_t at = tile.score_index(m);
      write_probabilities(a.dropout, tile, m, softmax[m], schedule, a.prefix_probs + at * slots, tile.start[m],
                          tile.end[m], slots, 0);
      write_probabilities(a.dropout, tile, m, softmax[m], schedule, a.token_probs + at * tokens, 0,
                          tile.visible_tokens(m), tokens, slots);
    }
    if (part == 0 && L::vector() == 0) {
      softmax[m].out.scale(a.dropout.seed ? a.dropout.keep / softmax[m].sum : 1.0f / softmax[m].sum);
      softmax[m].out.store(static_cast<T*>(a.out) + tile.vector_offset(m), head_dim);
    }
  }
}

}  // namespace rearec::cuda
