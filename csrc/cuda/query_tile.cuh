// The unit of work: some queries that read the same kv head, by one warp, or by all warps of a block in parts.
#pragma once
#include "attention_arguments.h"
#include "cuda/attention.h"
#include "cuda/head_vector.cuh"

namespace rearec::cuda {

constexpr int kWarpsPerBlock = 4;
constexpr int kThreads = kWarpsPerBlock * kWarp;

// Loads of a prefix's keys, L::kVectors each, that a lane has in flight at a time.
template <class L>
constexpr int kUnroll = L::kLoads >= 4 ? 1 : 4 / L::kLoads;
template <class L>
constexpr int kKeysAtOnce = kUnroll<L> * L::kVectors;

// A tile is worked on by `parts` warps of a block, 1 or all of them.
struct Schedule {
  unsigned tiles;  // over all kv heads
  int parts;
};

__device__ inline int warp_of_block() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int lane_of_warp() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int part_of_tile(const Schedule& schedule) { return schedule.parts > 1 ? warp_of_block() : 0; }
__device__ inline unsigned tile_of_warp(const Schedule& schedule) {
  return schedule.parts > 1 ? blockIdx.x : blockIdx.x * kWarpsPerBlock + static_cast<unsigned>(warp_of_block());
}
__device__ inline int lane_of_tile(const Schedule& schedule) { return part_of_tile(schedule) * kWarp + lane_of_warp(); }
// What the warps of a tile wrote becomes visible to all of them.
__device__ inline void sync_tile(const Schedule& schedule) {
  if (schedule.parts > 1) __syncthreads();
  else __syncwarp();
}

// Queries of one kv head in the order of `rows.order`: rows, then query heads of the group, then new tokens. Queries
// next to each other mostly see one prefix, which a tile of several of them then reads once.
template <class L, int kQueries>
struct QueryTile {
  const AttentionShape& shape;
  const Rows& rows;
  int kv_head;
  bool valid[kQueries];
  int row[kQueries], prefix[kQueries], start[kQueries], end[kQueries];
  int head[kQueries], query[kQueries];

  __device__ QueryTile(const AttentionShape& shape, const Rows& rows, unsigned tile) : shape(shape), rows(rows) {
    const unsigned kv_heads = static_cast<unsigned>(shape.kv_heads);
    const unsigned group = static_cast<unsigned>(shape.heads) / kv_heads;
    const unsigned queries = static_cast<unsigned>(shape.queries), per_row = group * queries;
    kv_head = static_cast<int>(tile % kv_heads);
    const unsigned first = tile / kv_heads * kQueries;
#pragma unroll
    for (int m = 0; m < kQueries; ++m) {
      const unsigned position = (first + m) / per_row, within = (first + m) % per_row;
      valid[m] = position < rows.count;
      row[m] = valid[m] ? rows.order[position] : 0;
      prefix[m] = valid[m] ? rows.row_prefix[row[m]] : -1;
      start[m] = valid[m] ? rows.start[row[m]] : 0;
      end[m] = valid[m] ? rows.end[row[m]] : 0;
      head[m] = static_cast<int>(kv_head * group + within / queries);
      query[m] = static_cast<int>(within % queries);
    }
  }

  __device__ bool sees(int m, int slot) const { return slot >= start[m] && slot < end[m]; }
  // The query's own token, the last that it sees.
  __device__ int own_token(int m) const { return static_cast<int>(shape.tokens - shape.queries) + query[m]; }
  __device__ int visible_tokens(int m) const { return valid[m] ? own_token(m) + 1 : 0; }
  // Index of the query in [rows, heads, queries], to be multiplied by the slots or tokens.
  __device__ int64_t score_index(int m) const { return (row[m] * shape.heads + head[m]) * shape.queries + query[m]; }
  // Offset of the query's vector in [rows, queries, heads, head_dim].
  __device__ int64_t vector_offset(int m) const {
    return ((row[m] * shape.queries + query[m]) * shape.heads + head[m]) * shape.head_dim;
  }

  __device__ int most_visible_tokens() const {
    int most = 0;
#pragma unroll
    for (int m = 0; m < kQueries; ++m) most = max(most, visible_tokens(m));
    return most;
  }
  // The queries that see slots of a prefix, as bits.
  __device__ unsigned with_prefix() const {
    unsigned bits = 0;
#pragma unroll
    for (int m = 0; m < kQueries; ++m) bits |= static_cast<unsigned>(start[m] < end[m]) << m;
    return bits;
  }
};

// The queries of a tile that see one prefix, as bits, and the slots that any of them sees.
struct PrefixRun {
  unsigned members;
  int prefix, start, end;
  __device__ bool has(int m) const { return members >> m & 1; }
};

// Takes the queries that see the same prefix as the first of `waiting` out of it.
template <class L, int kQueries>
__device__ inline PrefixRun next_run(const QueryTile<L, kQueries>& tile, unsigned& waiting) {
  PrefixRun run{0, -1, 0, 0};
#pragma unroll
  for (int m = 0; m < kQueries; ++m) {
    if (!(waiting >> m & 1)) continue;
    if (run.members == 0) run = {0, tile.prefix[m], tile.start[m], tile.end[m]};
    if (tile.prefix[m] != run.prefix) continue;
    run.members |= 1u << m;
    run.start = min(run.start, tile.start[m]);
    run.end = max(run.end, tile.end[m]);
  }
  waiting &= ~run.members;
  return run;
}

// A probability as the forward kept it counts with `keep`, 1 / (1 - p), or not at all where dropout dropped it, which its
// sign bit says.
__device__ inline bool is_dropped(float probability) { return __float_as_uint(probability) >> 31; }
__device__ inline float kept(float probability, float x, float keep) { return is_dropped(probability) ? 0.0f : x * keep; }

enum class Side { key, value };

// The vector of a token of a row, counted over all segments.
template <class T, Side kSide>
__device__ inline const T* token_vector(const Segments& segments, int row, int token, int64_t head_offset) {
  int s = 0;
  while (token >= segments.items[s].count) token -= static_cast<int>(segments.items[s++].count);
  const TokenSegment& segment = segments.items[s];
  const T* base = static_cast<const T*>(kSide == Side::key ? segment.k : segment.v);
  return base + row * segment.row_stride + token * segment.token_stride + head_offset;
}

// The lanes' parts of the keys (or values) that the tile's queries see at `token`, a token per vector of lanes.
template <Side kSide, class L, int kQueries>
__device__ inline void load_tokens(const Segments& segments, const QueryTile<L, kQueries>& tile, int token,
                                   Packed<L> (&to)[kQueries]) {
  using T = typename L::Element;
  const int head_dim = static_cast<int>(tile.shape.head_dim);
#pragma unroll
  for (int m = 0; m < kQueries; ++m) {
    const bool seen = token < tile.visible_tokens(m);
    const T* p = seen ? token_vector<T, kSide>(segments, tile.row[m], token, int64_t{tile.kv_head} * head_dim) : nullptr;
    to[m].load(p, head_dim, seen);
  }
}

// The lanes' parts of kUnroll x kVectors slots of a prefix from `first` on; zero beyond `end`.
template <class L>
__device__ inline void load_slots(const void* base, const PrefixStrides& stride, int prefix, int kv_head, int first,
                                  int end, int head_dim, Packed<L> (&to)[kUnroll<L>]) {
  using T = typename L::Element;
  const T* vectors = static_cast<const T*>(base) + prefix * stride.prefix + kv_head * stride.head;
#pragma unroll
  for (int u = 0; u < kUnroll<L>; ++u) {
    const int slot = first + u * L::kVectors + L::vector();
    to[u].load(vectors + slot * stride.slot, head_dim, slot < end);
  }
}

}  // namespace rearec::cuda
