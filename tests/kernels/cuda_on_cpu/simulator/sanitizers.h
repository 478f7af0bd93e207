// What the simulator tells the sanitizers: stacks that change (address), and which threads are ordered (thread).
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_ON_CPU_ADDRESS_SANITIZER 1
#endif
#if __has_feature(thread_sanitizer)
#define CUDA_ON_CPU_THREAD_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define CUDA_ON_CPU_ADDRESS_SANITIZER 1
#endif
#if defined(__SANITIZE_THREAD__)
#define CUDA_ON_CPU_THREAD_SANITIZER 1
#endif

#if defined(CUDA_ON_CPU_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(CUDA_ON_CPU_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
// Of the interface for managed languages' heaps: nothing else declares memory as new without looking for races. No heap
// is announced (__tsan_java_init): it would have to have the memory of every host thread in it.
extern "C" void __tsan_java_alloc(uintptr_t memory, uintptr_t bytes);
extern "C" void __tsan_java_free(uintptr_t memory, uintptr_t bytes);
#endif

// The simulator's own state changes hands between the threads it simulates: no sanitizer may look at it.
#define CUDA_ON_CPU_UNSANITIZED __attribute__((no_sanitize("address", "thread", "undefined")))

namespace cuda_on_cpu {

#if defined(CUDA_ON_CPU_THREAD_SANITIZER)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

// What the threads that released it had done when they did; those that acquire it are ordered after that.
struct Clock {
  unsigned address;  // only its address counts
};

// Forgets what others released before: a clock used again must not order threads that only earlier users knew.
// Instrumented, so that the thread sanitizer sees a store with release order.
inline void release_first(Clock& clock) {
  if (kThreadSanitizer) __atomic_store_n(&clock.address, 0u, __ATOMIC_RELEASE);
}

CUDA_ON_CPU_UNSANITIZED inline void release(Clock& clock) {
#if defined(CUDA_ON_CPU_THREAD_SANITIZER)
  __tsan_release(&clock.address);
#else
  (void)clock;
#endif
}

CUDA_ON_CPU_UNSANITIZED inline void acquire(Clock& clock) {
#if defined(CUDA_ON_CPU_THREAD_SANITIZER)
  __tsan_acquire(&clock.address);
#else
  (void)clock;
#endif
}

// Declares memory as written by the calling thread just now and by nobody before. Multiples of 8 bytes.
CUDA_ON_CPU_UNSANITIZED inline void declare_new(void* memory, size_t bytes) {
#if defined(CUDA_ON_CPU_THREAD_SANITIZER)
  __tsan_java_free(reinterpret_cast<uintptr_t>(memory), bytes);
  __tsan_java_alloc(reinterpret_cast<uintptr_t>(memory), bytes);
#else
  (void)memory, (void)bytes;
#endif
}

// Makes the address sanitizer report every access to memory that exists, but is not the program's.
CUDA_ON_CPU_UNSANITIZED inline void forbid(void* memory, size_t bytes) {
#if defined(CUDA_ON_CPU_ADDRESS_SANITIZER)
  __asan_poison_memory_region(memory, bytes);
#else
  (void)memory, (void)bytes;
#endif
}

CUDA_ON_CPU_UNSANITIZED inline void allow(void* memory, size_t bytes) {
#if defined(CUDA_ON_CPU_ADDRESS_SANITIZER)
  __asan_unpoison_memory_region(memory, bytes);
#else
  (void)memory, (void)bytes;
#endif
}

}  // namespace cuda_on_cpu
