// The gradient of the prefix: dK = sum ds q and dV = sum p grad_out over all steps, their queries and the rows of each
// prefix, each element written once.
#pragma once
#include "cuda/query_tile.cuh"

namespace rearec::cuda {

// A tile is kKeysAtOnce<L> slots of one prefix and kv head; its parts share the rows among them.
template <class L>
__global__ void __launch_bounds__(kThreads, 4)
    attention_prefix_gradient_kernel(const __grid_constant__ PrefixGradient a, const __grid_constant__ Schedule schedule) {
  using T = typename L::Element;
  constexpr int kKeys = kKeysAtOnce<L>;
  const unsigned tile = tile_of_warp(schedule);
  if (tile >= schedule.tiles) return;  // with several parts, the whole block
  const unsigned kv_heads = static_cast<unsigned>(a.kv_heads);
  const unsigned blocks = (static_cast<unsigned>(a.slots) + kKeys - 1) / kKeys;
  const int kv_head = static_cast<int>(tile % kv_heads);
  const int first = static_cast<int>(tile / kv_heads % blocks) * kKeys;
  const int64_t prefix = tile / kv_heads / blocks;
  const int group = static_cast<int>(a.heads / a.kv_heads), head_dim = static_cast<int>(a.head_dim);
  const int part = part_of_tile(schedule);

  HeadVector<L> grad_k[kUnroll<L>], grad_v[kUnroll<L>];
#pragma unroll
  for (int u = 0; u < kUnroll<L>; ++u) {
    grad_k[u].zero();
    grad_v[u].zero();
  }
  for (int position = a.offsets[prefix] + part; position < a.offsets[prefix + 1]; position += schedule.parts) {
    const int row = a.rows.order[position], start = a.rows.start[row], end = a.rows.end[row];
    if (start >= first + kKeys || end <= first) continue;
    for (int s = 0; s < a.steps.count; ++s) {
      const StepGradient& step = a.steps.items[s];
      for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (int query = 0; query < step.queries; ++query) {
          const int64_t scores = ((row * a.heads + head) * step.queries + query) * a.slots;
          const int64_t offset = ((row * step.queries + query) * a.heads + head) * head_dim;
          HeadVector<L> q, grad_out;
          q.load(static_cast<const T*>(step.q) + offset, head_dim, true);
          grad_out.load(static_cast<const T*>(step.grad_out) + offset, head_dim, true);
          float ds[kUnroll<L>], p[kUnroll<L>];
#pragma unroll
          for (int u = 0; u < kUnroll<L>; ++u) {
            const int slot = first + u * L::kVectors + L::vector();
            const bool seen = slot >= start && slot < end;
            ds[u] = seen ? __ldg(step.dscores + scores + slot) : 0.0f;
            p[u] = seen ? __ldg(step.probs + scores + slot) : 0.0f;
          }
#pragma unroll
          for (int u = 0; u < kUnroll<L>; ++u) {
            const int slot = first + u * L::kVectors + L::vector();
            if (slot < start || slot >= end) continue;
            grad_k[u].add(ds[u], q);
            grad_v[u].add(kept(p[u], p[u], 1.0f), grad_out);
          }
        }
      }
    }
  }

  if (schedule.parts > 1) {
    __shared__ float of_part[2][kUnroll<L>][L::kElements][kWarp];
    const int lane = lane_of_warp();
    for (int p = 1; p < kWarpsPerBlock; ++p) {
#pragma unroll
      for (int u = 0; u < kUnroll<L>; ++u)
#pragma unroll
        for (int e = 0; e < L::kElements; ++e) {
          if (part != p) continue;
          of_part[0][u][e][lane] = grad_k[u].x[e];
          of_part[1][u][e][lane] = grad_v[u].x[e];
        }
      __syncthreads();
#pragma unroll
      for (int u = 0; u < kUnroll<L>; ++u)
#pragma unroll
        for (int e = 0; e < L::kElements; ++e) {
          if (part != 0) continue;
          grad_k[u].x[e] += of_part[0][u][e][lane];
          grad_v[u].x[e] += of_part[1][u][e][lane];
        }
      __syncthreads();
    }
    if (part != 0) return;
  }
#pragma unroll
  for (int u = 0; u < kUnroll<L>; ++u) {
    const int slot = first + u * L::kVectors + L::vector();
    if (slot >= a.slots) continue;
    const int64_t to = ((prefix * a.slots + slot) * a.kv_heads + kv_head) * head_dim;
    grad_k[u].store(static_cast<T*>(a.grad_k) + to, head_dim);
    grad_v[u].store(static_cast<T*>(a.grad_v) + to, head_dim);
  }
}

}  // namespace rearec::cuda
