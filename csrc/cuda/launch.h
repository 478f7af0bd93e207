// What the launchers share: the layout that serves a dtype, a head width and its addresses; how work is spread; errors.
#pragma once
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "arithmetic.h"
#include "cuda/query_tile.cuh"

namespace rearec::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": CUDA error " + cudaGetErrorName(error) + ": " +
                             cudaGetErrorString(error));
}

inline size_t element_size(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// Whether every vector can be read in 16-byte words.
class WordAccess {
 public:
  WordAccess(DType dtype, int64_t head_dim) : size_(static_cast<int64_t>(element_size(dtype))) { strides({head_dim}); }
  WordAccess& addresses(std::initializer_list<const void*> list) {
    for (const void* p : list) possible_ = possible_ && reinterpret_cast<uintptr_t>(p) % 16 == 0;
    return *this;
  }
  WordAccess& strides(std::initializer_list<int64_t> list) {
    for (int64_t stride : list) possible_ = possible_ && stride * size_ % 16 == 0;
    return *this;
  }
  WordAccess& prefix(const Prefix& p) {
    return addresses({p.k, p.v})
        .strides({p.k_stride.prefix, p.k_stride.slot, p.k_stride.head})
        .strides({p.v_stride.prefix, p.v_stride.slot, p.v_stride.head});
  }
  WordAccess& segments(const Segments& list) {
    for (int s = 0; s < list.count; ++s) {
      const TokenSegment& segment = list.items[s];
      addresses({segment.k, segment.v}).strides({segment.row_stride, segment.token_stride});
    }
    return *this;
  }
  bool possible() const { return possible_; }

 private:
  int64_t size_;
  bool possible_ = true;
};

template <class T, class Run>
void with_width(int64_t head_dim, bool words, const Run& run) {
  constexpr int kWidth = 16 / sizeof(T);
  if (!words && head_dim <= 64) run(Layout<T, 64, 1>{});
  else if (!words) run(Layout<T, kMaxHeadDim, 1>{});
  else if (head_dim <= 32) run(Layout<T, 32, kWidth>{});
  else if (head_dim <= 64) run(Layout<T, 64, kWidth>{});
  else if (head_dim <= 128) run(Layout<T, 128, kWidth>{});
  else run(Layout<T, kMaxHeadDim, kWidth>{});
}

// Calls run(Layout<...>{}) with the smallest layout that holds head_dim elements.
template <class Run>
void with_layout(DType dtype, int64_t head_dim, const WordAccess& access, const Run& run) {
  if (head_dim < 1 || head_dim > kMaxHeadDim)
    throw std::invalid_argument("head width " + std::to_string(head_dim) + ", expected 1 to " +
                                std::to_string(kMaxHeadDim));
  switch (dtype) {
    case DType::float32: return with_width<float>(head_dim, access.possible(), run);
    case DType::bfloat16: return with_width<__nv_bfloat16>(head_dim, access.possible(), run);
    case DType::float16: return with_width<__half>(head_dim, access.possible(), run);
  }
  throw std::invalid_argument("unknown dtype");
}

// Tiles, queries and tokens are counted in 32 bits, elements in 64.
inline unsigned count32(int64_t count, const char* what) {
  if (count > 0x7fffffff) throw std::invalid_argument(std::string("more than 2^31 - 1 ") + what + " in one call");
  return static_cast<unsigned>(count);
}

// One warp for each of the `warps`.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t warps, void* stream, const Arguments&... arguments) {
  const int64_t blocks = ceil_divide(warps, kWarpsPerBlock);
  if (blocks == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(count32(blocks, "blocks"));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  // What failed may be older work, of which the device tells only now.
  if (error != cudaSuccess) check(error, (std::string(name) + ", or what was launched before it").c_str());
}

// Several queries to a tile where, on average, as many see one prefix.
constexpr int kSharedQueries = 4;

inline int64_t queries_per_kv_head(const AttentionShape& shape, const Rows& rows) {
  return rows.count * (shape.heads / shape.kv_heads) * shape.queries;
}

// Work in parts where whole tiles would leave half of the device idle, and each part still has something to do.
inline Schedule schedule_tiles(int64_t tiles, int64_t loops, int blocks_per_processor) {
  int device = 0, processors = 1;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  const bool idle = tiles * 2 < int64_t{processors} * blocks_per_processor * kWarpsPerBlock;
  return {count32(tiles, "tiles"), idle && loops >= 2 ? kWarpsPerBlock : 1};
}

template <class Arguments>
struct TileKernel {
  void (*kernel)(Arguments, Schedule);
  int queries;               // to a tile
  int blocks_per_processor;  // as its launch bounds say
};

// All queries, by `shared` where prefixes are and there is such a kernel, else by `single`.
template <class L, class Arguments>
void launch_tiles(const char* name, const TileKernel<Arguments>& single, const TileKernel<Arguments>& shared,
                  const Arguments& a) {
  const int64_t queries = count32(queries_per_kv_head(a.shape, a.rows), "queries");
  const bool shares = shared.kernel && queries >= kSharedQueries * a.prefixes;
  const TileKernel<Arguments>& chosen = shares ? shared : single;
  const int64_t tiles = ceil_divide(queries, chosen.queries) * a.shape.kv_heads;
  const int64_t loops = ceil_divide(a.prefix.slots, kKeysAtOnce<L>);
  const Schedule schedule = schedule_tiles(tiles, loops, chosen.blocks_per_processor);
  launch(name, chosen.kernel, tiles * schedule.parts, a.stream, a, schedule);
}

}  // namespace rearec::cuda
