// Work dealt to the threads of one OpenMP region. The regions of all kernels are here: each tells how long its threads
// waited for each other (waiting.h).
#pragma once
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/runtime/waiting.h"

namespace rearec {
namespace {

// Calls body(thread, threads) in so many threads, perhaps fewer than asked for, the calling one among them.
template <class Body>
void in_threads(int threads, const Body& body) {
#if defined(_OPENMP)
  if (threads > 1) {
    const int64_t begin = now();
    int64_t done = begin;
#pragma omp parallel num_threads(threads)
    {
      const int thread = omp_get_thread_num();
      body(thread, omp_get_num_threads());
      report_delay(threads);
      if (thread == 0) done = now();
    }
    report_waiting(threads, done - begin, now() - done);
    return;
  }
#endif
  body(0, 1);
}

// Hands out [0, count) to the threads that call next(), `step` at a time to whoever comes first.
class Tasks {
 public:
  explicit Tasks(int64_t count, int64_t step = 1) : count_(count), step_(step) {}

  template <class Task>
  void run(const Task& task) {
    for (;;) {
      const int64_t first = __atomic_fetch_add(&next_, step_, __ATOMIC_RELAXED);
      if (first >= count_) return;
      const int64_t end = first + step_ < count_ ? first + step_ : count_;
      for (int64_t i = first; i < end; ++i) task(i);
    }
  }

 private:
  const int64_t count_, step_;
  int64_t next_ = 0;
};

// task(i) for i in [0, count), whoever comes first.
template <class Task>
void for_each_task(int threads, int64_t count, const Task& task) {
  Tasks tasks(count);
  in_threads(count > 1 ? threads : 1, [&](int, int) { tasks.run(task); });
}

// task(i) for i in [0, count), to every thread as many.
template <class Task>
void for_each_evenly(int threads, int64_t count, const Task& task) {
  in_threads(count > 1 ? threads : 1, [&](int thread, int size) {
    const int64_t end = count * (thread + 1) / size;
    for (int64_t i = count * thread / size; i < end; ++i) task(i);
  });
}

}  // namespace
}  // namespace rearec
