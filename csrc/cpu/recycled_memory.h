// Blocks of memory that are kept for the next call when the tensor over them dies. Fresh memory of tens of megabytes is
// mapped, zeroed and faulted in page by page by the operating system, which can cost more than the kernel that fills it.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace rearec {

class RecycledMemory {
 public:
  struct Block {
    void* data;
    size_t bytes;
  };

  // A kept block of at least `bytes` and at most twice that, else a new one. Contents are undefined.
  Block take(size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      size_t best = kept_.size();
      for (size_t i = 0; i < kept_.size(); ++i)
        if (kept_[i].bytes >= bytes && kept_[i].bytes / 2 <= bytes &&
            (best == kept_.size() || kept_[i].bytes < kept_[best].bytes))
          best = i;
      if (best < kept_.size()) {
        const Block block = kept_[best];
        kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(best));
        kept_bytes_ -= block.bytes;
        return block;
      }
    }
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* data = nullptr;  // std::aligned_alloc would ask for a recent macOS
    if (posix_memalign(&data, kAlignment, rounded) != 0) throw std::bad_alloc();
    return {data, rounded};
  }

  // Keeps the block; the ones that were kept longest make room.
  void give_back(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    kept_.push_back(block);
    kept_bytes_ += block.bytes;
    trim();
  }

  void set_limit(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    limit_ = bytes;
    trim();
  }

  size_t kept_bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_bytes_;
  }

 private:
  static constexpr size_t kAlignment = 4096;

  void trim() {
    while (kept_bytes_ > limit_) {
      std::free(kept_.front().data);
      kept_bytes_ -= kept_.front().bytes;
      kept_.erase(kept_.begin());
    }
  }

  std::mutex mutex_;
  std::vector<Block> kept_;  // longest kept first
  size_t kept_bytes_ = 0;
  size_t limit_ = 0;
};

// That of this process. Never destroyed: tensors may outlive static objects.
inline RecycledMemory& recycled_memory() {
  static RecycledMemory* const memory = new RecycledMemory;
  return *memory;
}

struct RecycledBlock {
  RecycledMemory::Block block;
  explicit RecycledBlock(size_t bytes) : block(recycled_memory().take(bytes)) {}
  ~RecycledBlock() { recycled_memory().give_back(block); }
  RecycledBlock(const RecycledBlock&) = delete;
  RecycledBlock& operator=(const RecycledBlock&) = delete;
};

}  // namespace rearec
