// One block in execution: which of its threads may run, and where the others wait.
//
// Every CUDA thread is a fiber. It runs until it waits at a barrier or a warp operation; then another thread that may
// run is chosen. What CUDA leaves undefined and hardware hangs on or answers with garbage aborts with one line on
// stderr.
#pragma once
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "fibers.h"
#include "vector_types.h"

namespace cuda_on_cpu {

inline constexpr unsigned kWarpLanes = 32;
inline constexpr unsigned kMaxThreads = 1024;  // of a block
inline constexpr unsigned kMaxWarps = kMaxThreads / kWarpLanes;

enum class Operation : uint8_t { kSyncwarp, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kBallot, kAny, kAll };

CUDA_ON_CPU_UNSANITIZED inline const char* name_of(Operation operation) {
  static constexpr const char* kNames[] = {"__syncwarp",       "__shfl_sync",     "__shfl_up_sync",
                                           "__shfl_down_sync", "__shfl_xor_sync", "__ballot_sync",
                                           "__any_sync",       "__all_sync"};
  return kNames[static_cast<int>(operation)];
}

CUDA_ON_CPU_UNSANITIZED inline bool is_shuffle(Operation operation) {
  return operation >= Operation::kShuffle && operation <= Operation::kShuffleXor;
}

// Lanes of one warp at one operation with one mask.
struct Meeting {
  Clock clock;
  Operation operation;
  uint32_t mask;
  uint32_t arrived;
  uint32_t leaving;  // lanes that have not yet left; the clock is theirs until then
};

struct Warp {
  uint32_t present;   // lanes that exist: the last warp of a block may have fewer than 32
  uint32_t ready;     // lanes that may run
  uint32_t returned;  // lanes that have left the kernel
  uint32_t open;      // meetings that lanes still wait in
  uint32_t in_use;    // meetings, open or with lanes that have not left yet
  Meeting meetings[kWarpLanes];
  uint64_t value[kWarpLanes];  // what each lane brought to its meeting
  uint64_t result[kWarpLanes];
  uint8_t source[kWarpLanes];
};

struct Thread {
  uint3 index;
  Fiber* fiber;
};

struct Block {
  Thread threads[kMaxThreads];
  Warp warps[kMaxWarps];
  uint32_t ready_warps;  // those with lanes that may run
  unsigned size;         // in threads
  unsigned current;      // the running thread
  unsigned returned;     // threads that have left the kernel
  unsigned at_barrier;   // threads that wait in __syncthreads
  unsigned barrier;      // which of the two clocks the next __syncthreads takes
  Clock barrier_clocks[2];  // two: when one is used again, all threads have left its barrier
  Clock begin, end;         // of the block
  uint64_t schedule;        // 0: threads in order; else the state of the generator that chooses
  unsigned long seed;
  void (*kernel)(const void* arguments);
  const void* arguments;
  Fiber host;
};

inline Block block;

// What kernels read.
inline uint3 thread_index;
inline uint3 block_index;
inline dim3 block_shape;
inline dim3 grid_shape;

[[noreturn]] CUDA_ON_CPU_UNSANITIZED inline void fail(const char* format, ...) {
  char message[400];
  va_list values;
  va_start(values, format);
  vsnprintf(message, sizeof message, format, values);
  va_end(values);
  fflush(stdout);
  fprintf(stderr, "cuda_on_cpu: block (%u,%u,%u), thread (%u,%u,%u): %s (seed %lu)\n", block_index.x, block_index.y,
          block_index.z, thread_index.x, thread_index.y, thread_index.z, message, block.seed);
  abort();
}

CUDA_ON_CPU_UNSANITIZED inline void set_ready(unsigned warp, uint32_t lanes) {
  block.warps[warp].ready |= lanes;
  block.ready_warps |= uint32_t{1} << warp;
}

CUDA_ON_CPU_UNSANITIZED inline void set_waiting(unsigned warp, uint32_t lane) {
  block.warps[warp].ready &= ~lane;
  if (block.warps[warp].ready == 0) block.ready_warps &= ~(uint32_t{1} << warp);
}

// Nobody may run and somebody waits: the threads wait for each other.
[[noreturn]] CUDA_ON_CPU_UNSANITIZED inline void fail_in_deadlock() {
  for (unsigned warp = 0; warp * kWarpLanes < block.size; ++warp) {
    const uint32_t open = block.warps[warp].open;
    if (open == 0) continue;
    const Meeting& meeting = block.warps[warp].meetings[__builtin_ctz(open)];
    thread_index = block.threads[warp * kWarpLanes + static_cast<unsigned>(__builtin_ctz(meeting.arrived))].index;
    const uint32_t missing = meeting.mask & block.warps[warp].present & ~meeting.arrived;
    fail("deadlock: waits in %s with mask 0x%08x for lanes 0x%08x, which wait elsewhere; %u threads wait in "
         "__syncthreads",
         name_of(meeting.operation), meeting.mask, missing, block.at_barrier);
  }
  fail("deadlock: %u of %u threads wait in __syncthreads", block.at_barrier, block.size);
}

CUDA_ON_CPU_UNSANITIZED inline uint64_t random_bits() {
  block.schedule ^= block.schedule << 13;
  block.schedule ^= block.schedule >> 7;
  block.schedule ^= block.schedule << 17;
  return block.schedule * 0x9E3779B97F4A7C15u >> 32;
}

// One of the bits that are set: the first from `start` on.
CUDA_ON_CPU_UNSANITIZED inline unsigned bit_from(uint32_t bits, unsigned start) {
  const uint32_t rotated = bits >> start | bits << (32 - start) % 32;
  return (static_cast<unsigned>(__builtin_ctz(rotated)) + start) % 32;
}

// Threads of one warp run back to back, so that a shuffle takes no more switches than the warp has lanes.
CUDA_ON_CPU_UNSANITIZED inline unsigned choose_thread() {
  if (block.ready_warps == 0) fail_in_deadlock();
  unsigned warp = block.current / kWarpLanes;
  if (block.schedule == 0) {
    if (block.warps[warp].ready == 0) warp = static_cast<unsigned>(__builtin_ctz(block.ready_warps));
    return warp * kWarpLanes + static_cast<unsigned>(__builtin_ctz(block.warps[warp].ready));
  }
  const uint64_t random = random_bits();
  if (block.warps[warp].ready == 0 || random % 16 == 0) warp = bit_from(block.ready_warps, random >> 8 & 31);
  return warp * kWarpLanes + bit_from(block.warps[warp].ready, random >> 16 & 31);
}

CUDA_ON_CPU_UNSANITIZED inline void run(unsigned thread, Fiber& from) {
  block.current = thread;
  thread_index = block.threads[thread].index;
  if (block.threads[thread].fiber != &from) switch_fiber(from, *block.threads[thread].fiber);
}

CUDA_ON_CPU_UNSANITIZED inline void run_others() {
  Fiber& self = *block.threads[block.current].fiber;
  run(choose_thread(), self);
}

// __syncthreads.
CUDA_ON_CPU_UNSANITIZED inline void block_barrier() {
  if (block.returned != 0) {
    fail("reaches __syncthreads, but %u threads of the block have already returned", block.returned);
  }
  Clock& clock = block.barrier_clocks[block.barrier];
  if (block.at_barrier++ == 0) {
    release_first(clock);
  } else {
    release(clock);
  }
  set_waiting(block.current / kWarpLanes, uint32_t{1} << block.current % kWarpLanes);
  if (block.at_barrier == block.size) {
    block.at_barrier = 0;
    block.barrier ^= 1;
    for (unsigned warp = 0; warp * kWarpLanes < block.size; ++warp) set_ready(warp, block.warps[warp].present);
  }
  run_others();
  acquire(clock);
}

// Gives every lane of a complete meeting its result and lets it run.
CUDA_ON_CPU_UNSANITIZED inline void conclude(Warp& warp, Meeting& meeting) {
  uint64_t votes = 0;
  for (uint32_t rest = meeting.arrived; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    votes |= uint64_t{warp.value[lane] != 0} << lane;
  }
  for (uint32_t rest = meeting.arrived; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (!is_shuffle(meeting.operation)) {
      warp.result[lane] = votes;
    } else if (meeting.arrived >> warp.source[lane] & 1) {
      warp.result[lane] = warp.value[warp.source[lane]];
    } else {
      const unsigned source = warp.source[lane];
      fail("%s with mask 0x%08x: lane %d reads lane %u, which %s", name_of(meeting.operation), meeting.mask, lane,
           source, meeting.mask >> source & 1 ? "does not exist" : "is not in the mask");
    }
  }
}

// A warp operation: waits for all lanes in the mask. Returns the source's value (shuffles) or the votes as bits.
CUDA_ON_CPU_UNSANITIZED inline uint64_t meet(Operation operation, uint32_t mask, uint64_t value, unsigned source) {
  const unsigned warp_number = block.current / kWarpLanes;
  const unsigned lane_number = block.current % kWarpLanes;
  const uint32_t lane = uint32_t{1} << lane_number;
  Warp& warp = block.warps[warp_number];
  if (!(mask & lane)) {
    fail("%s with mask 0x%08x leaves out the calling lane %u", name_of(operation), mask, lane_number);
  }
  const uint32_t members = mask & warp.present;
  if (members & warp.returned) {
    fail("%s with mask 0x%08x: lanes 0x%08x have already returned", name_of(operation), mask, members & warp.returned);
  }
  warp.value[lane_number] = value;
  warp.source[lane_number] = static_cast<uint8_t>(source);

  Meeting* meeting = nullptr;
  for (uint32_t rest = warp.open; rest != 0 && meeting == nullptr; rest &= rest - 1) {
    Meeting& other = warp.meetings[__builtin_ctz(rest)];
    if (other.operation == operation && other.mask == mask) {
      meeting = &other;
    } else if ((other.mask & lane) && (other.arrived & mask)) {
      fail("divergence: calls %s with mask 0x%08x while lanes 0x%08x wait for it in %s with mask 0x%08x",
           name_of(operation), mask, other.arrived, name_of(other.operation), other.mask);
    }
  }
  const bool first = meeting == nullptr;
  if (first) {
    const int free = __builtin_ctz(~warp.in_use);  // there is one: a lane is in one meeting at most
    warp.in_use |= uint32_t{1} << free;
    warp.open |= uint32_t{1} << free;
    meeting = &warp.meetings[free];
    meeting->operation = operation;
    meeting->mask = mask;
    meeting->arrived = 0;
  }
  const uint32_t meeting_bit = uint32_t{1} << (meeting - warp.meetings);
  meeting->arrived |= lane;
  if (operation == Operation::kSyncwarp) {
    if (first) {
      release_first(meeting->clock);
    } else {
      release(meeting->clock);
    }
  }
  set_waiting(warp_number, lane);
  if (meeting->arrived == members) {
    conclude(warp, *meeting);
    meeting->leaving = members;
    warp.open &= ~meeting_bit;
    set_ready(warp_number, members);
  }
  run_others();
  if (operation == Operation::kSyncwarp) acquire(meeting->clock);
  meeting->leaving &= ~lane;
  if (meeting->leaving == 0) warp.in_use &= ~meeting_bit;
  return warp.result[lane_number];
}

CUDA_ON_CPU_UNSANITIZED inline void thread_returned() {
  Warp& warp = block.warps[block.current / kWarpLanes];
  const uint32_t lane = uint32_t{1} << block.current % kWarpLanes;
  if (block.at_barrier != 0) {
    fail("returns, but %u threads of the block wait for it in __syncthreads", block.at_barrier);
  }
  for (uint32_t rest = warp.open; rest != 0; rest &= rest - 1) {
    const Meeting& meeting = warp.meetings[__builtin_ctz(rest)];
    if (meeting.mask & lane) {
      fail("returns, but lanes 0x%08x wait for it in %s with mask 0x%08x", meeting.arrived, name_of(meeting.operation),
           meeting.mask);
    }
  }
  warp.returned |= lane;
  ++block.returned;
  set_waiting(block.current / kWarpLanes, lane);
  Fiber& self = *block.threads[block.current].fiber;
  if (block.returned == block.size) {
    switch_fiber(self, block.host);
  } else {
    run(choose_thread(), self);
  }
}

// What every fiber does: the kernel for one thread of one block, again and again.
[[noreturn]] CUDA_ON_CPU_UNSANITIZED inline void run_threads() {
  switch_finished(*block.threads[block.current].fiber);
  for (;;) {
    acquire(block.begin);
    block.kernel(block.arguments);
    release(block.end);
    thread_returned();
  }
}

// Runs the block of block_index, whose size, threads and kernel are set. Its threads are ordered after the caller, and
// not with those of other blocks.
CUDA_ON_CPU_UNSANITIZED inline void run_block() {
  block.returned = block.at_barrier = 0;
  block.ready_warps = 0;
  for (unsigned warp = 0; warp * kWarpLanes < block.size; ++warp) {
    const unsigned lanes = block.size - warp * kWarpLanes;
    block.warps[warp].present = lanes < kWarpLanes ? (uint32_t{1} << lanes) - 1 : ~uint32_t{0};
    block.warps[warp].returned = 0;
    set_ready(warp, block.warps[warp].present);
  }
  // The warp that is first.
  block.current = block.schedule == 0 ? 0 : static_cast<unsigned>(random_bits() % block.size);
  release(block.begin);
  run(choose_thread(), block.host);
}

}  // namespace cuda_on_cpu
