// Shared memory: thread_local storage of the one host thread that runs the whole grid.
//
// Of all storage classes this one can be said wherever CUDA says __shared__ (in functions, in templates, after extern),
// and the linker gathers its variables in one place, which can be filled with NaN before every block. Thread-local
// variables that are not kernels' are put back when the grid is done: meanwhile nobody reads them.
#pragma once
#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sanitizers.h"

#define __shared__ thread_local

// Defines the dynamic shared memory that kernels declare as `extern __shared__ type name[];`, once in a program.
#define CUDA_ON_CPU_DYNAMIC_SHARED_MEMORY(type, name)                                              \
  alignas(128) thread_local type name[cuda_on_cpu::kMaxDynamicSharedMemory / sizeof(type)];        \
  __attribute__((constructor)) static void cuda_on_cpu_register_##name() {                         \
    cuda_on_cpu::dynamic_shared_memory_address = [] { return reinterpret_cast<char*>(&name[0]); }; \
  }

namespace cuda_on_cpu {

inline constexpr size_t kMaxDynamicSharedMemory = 227 * 1024;  // of compute capability 9.0

inline char* (*dynamic_shared_memory_address)() = nullptr;

// A thread_local variable to recognise the others by: they belong to the same executable or library.
alignas(128) inline thread_local char shared_memory_landmark[8];

class SharedMemory {
 public:
  CUDA_ON_CPU_UNSANITIZED explicit SharedMemory(size_t dynamic_bytes) {
    char* landmark = shared_memory_landmark;
    asm volatile("" : : "r"(landmark));  // a library's variables come into being in a thread when one is looked at
    dl_iterate_phdr(find, this);
    if (begin_ == nullptr) {
      fputs("cuda_on_cpu: cannot find the thread-local variables\n", stderr);
      abort();
    }
    unused_begin_ = unused_end_ = end_;
    if (dynamic_shared_memory_address != nullptr) {
      unused_begin_ = dynamic_shared_memory_address() + dynamic_bytes;
      unused_end_ = dynamic_shared_memory_address() + kMaxDynamicSharedMemory;
    }
    kept_ = static_cast<char*>(malloc(bytes()));
    memcpy(kept_, begin_, bytes());
    forbid(unused_begin_, static_cast<size_t>(unused_end_ - unused_begin_));
  }
  CUDA_ON_CPU_UNSANITIZED ~SharedMemory() {
    allow(unused_begin_, static_cast<size_t>(unused_end_ - unused_begin_));
    memcpy(begin_, kept_, bytes());
    free(kept_);
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Makes it as a block finds it: nothing in it yet, and no other block's accesses to it matter.
  CUDA_ON_CPU_UNSANITIZED void renew() const {
    renew(begin_, unused_begin_);
    renew(unused_end_, end_);
  }

 private:
  CUDA_ON_CPU_UNSANITIZED static int find(dl_phdr_info* object, size_t, void* result) {
    for (int i = 0; i < object->dlpi_phnum; ++i) {
      const auto& segment = object->dlpi_phdr[i];
      char* begin = static_cast<char*>(object->dlpi_tls_data);
      if (segment.p_type != PT_TLS || begin == nullptr) continue;
      if (shared_memory_landmark < begin || shared_memory_landmark >= begin + segment.p_memsz) continue;
      SharedMemory& memory = *static_cast<SharedMemory*>(result);
      memory.begin_ = begin;
      memory.end_ = begin + (segment.p_memsz + 7) / 8 * 8;  // the landmark sees to it that this is ours, too
      return 1;
    }
    return 0;
  }

  CUDA_ON_CPU_UNSANITIZED static void renew(char* begin, char* end) {
    fill_with_nan(begin, end);
    if (begin != end) declare_new(begin, (static_cast<size_t>(end - begin) + 7) / 8 * 8);
  }

  // memset would be the sanitizers' own, which looks for errors.
  CUDA_ON_CPU_UNSANITIZED static void fill_with_nan(char* begin, char* end) {
#if defined(__x86_64__)
    size_t bytes = static_cast<size_t>(end - begin);
    asm volatile("rep stosb" : "+D"(begin), "+c"(bytes) : "a"(0xff) : "memory");
#else
    for (volatile char* byte = begin; byte < end; ++byte) *byte = '\xff';
#endif
  }

  size_t bytes() const { return static_cast<size_t>(end_ - begin_); }

  char* begin_ = nullptr;  // of all variables; a multiple of 8 bytes
  char* end_ = nullptr;
  char* unused_begin_;  // the dynamic shared memory beyond what the launch asked for
  char* unused_end_;
  char* kept_;  // what was here before the launch
};

}  // namespace cuda_on_cpu
