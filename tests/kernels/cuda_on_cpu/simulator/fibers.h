// Fibers: stacks to switch between within one thread of the host.
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sanitizers.h"

#if defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_ASSEMBLY 1
#else
#include <ucontext.h>
#endif

#if defined(CUDA_ON_CPU_ASSEMBLY)
// Keeps the registers that calls preserve and the floating-point modes on the stack being left, then takes them from
// the stack being entered. swapcontext does it too, but with a system call.
asm(R"(
  .pushsection .text.cuda_on_cpu_exchange_stacks, "axG", @progbits, cuda_on_cpu_exchange_stacks, comdat
  .weak cuda_on_cpu_exchange_stacks
  .hidden cuda_on_cpu_exchange_stacks
  .type cuda_on_cpu_exchange_stacks, @function
cuda_on_cpu_exchange_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  stmxcsr (%rsp)
  fnstcw 4(%rsp)
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  ldmxcsr (%rsp)
  fldcw 4(%rsp)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cuda_on_cpu_exchange_stacks, . - cuda_on_cpu_exchange_stacks
  .popsection
)");
extern "C" __attribute__((visibility("hidden"))) void cuda_on_cpu_exchange_stacks(void** left, void* entered);
#endif

namespace cuda_on_cpu {

inline constexpr size_t kStackBytes = size_t{256} << 10;

struct Fiber {
#if defined(CUDA_ON_CPU_ASSEMBLY)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
  void* stack;  // its lowest byte
#if defined(CUDA_ON_CPU_ADDRESS_SANITIZER)
  const void* stack_bottom;
  size_t stack_bytes;
  void* fake_stack;
#endif
#if defined(CUDA_ON_CPU_THREAD_SANITIZER)
  void* sanitizer_fiber;
#endif
};

inline Fiber* fiber_left = nullptr;  // by the latest switch

// First thing on every stack that is entered.
CUDA_ON_CPU_UNSANITIZED inline void switch_finished(Fiber& entered) {
#if defined(CUDA_ON_CPU_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(entered.fake_stack, &fiber_left->stack_bottom, &fiber_left->stack_bytes);
#endif
  (void)entered;
}

// Returns when somebody switches back. Orders nothing.
CUDA_ON_CPU_UNSANITIZED inline void switch_fiber(Fiber& from, Fiber& to) {
  fiber_left = &from;
#if defined(CUDA_ON_CPU_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_bottom, to.stack_bytes);
#endif
#if defined(CUDA_ON_CPU_THREAD_SANITIZER)
  __tsan_switch_to_fiber(to.sanitizer_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(CUDA_ON_CPU_ASSEMBLY)
  cuda_on_cpu_exchange_stacks(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
  switch_finished(from);
}

// Describes the stack that the caller runs on; its bounds become known when it is left.
CUDA_ON_CPU_UNSANITIZED inline void adopt_current_stack(Fiber& fiber) {
#if defined(CUDA_ON_CPU_THREAD_SANITIZER)
  fiber.sanitizer_fiber = __tsan_get_current_fiber();
#endif
  (void)fiber;
}

// A new stack on which `entry` will run; entry never returns. Below it lies a page that cannot be touched.
CUDA_ON_CPU_UNSANITIZED inline void create_fiber(Fiber& fiber, void (*entry)()) {
  const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0) {
    perror("cuda_on_cpu: no memory for the stack of a CUDA thread");
    abort();
  }
  fiber.stack = static_cast<char*>(memory) + guard;
#if defined(CUDA_ON_CPU_ASSEMBLY)
  // As cuda_on_cpu_exchange_stacks leaves a stack: modes, six registers, where to return to, and no caller above that.
  uint64_t* top = reinterpret_cast<uint64_t*>(static_cast<char*>(fiber.stack) + kStackBytes);
  *--top = 0;
  *--top = reinterpret_cast<uint64_t>(entry);
  for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = 0;
  --top;
  asm volatile("stmxcsr (%0)\n\tfnstcw 4(%0)" : : "r"(top) : "memory");
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#endif
#if defined(CUDA_ON_CPU_ADDRESS_SANITIZER)
  fiber.stack_bottom = fiber.stack;
  fiber.stack_bytes = kStackBytes;
  fiber.fake_stack = nullptr;
#endif
#if defined(CUDA_ON_CPU_THREAD_SANITIZER)
  fiber.sanitizer_fiber = __tsan_create_fiber(0);
#endif
}

}  // namespace cuda_on_cpu
