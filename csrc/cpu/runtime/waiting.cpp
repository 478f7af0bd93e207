// libgomp's threads spin for milliseconds before they sleep, at the end of a region and between two of them. On a busy
// machine they spin away the very time slices in which the thread that they wait for could run, and the scheduler makes
// them pay for it afterwards. libgomp knows the case and spins a hundred turns only where a process has more OpenMP
// threads than processors. So one thread of ours opens a small team of its own, which sleeps, for as long as waits are
// long. Nothing that can be set or read changes: no variable, no number of threads, no thread of torch's pool, no result.
#include "cpu/runtime/waiting.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace rearec {
namespace {

#if defined(_OPENMP) && defined(__linux__) && !defined(__clang__)  // Clang brings another OpenMP
#define REAREC_LIBGOMP
#endif

constexpr int64_t kMillisecond = 1000 * 1000;
constexpr int64_t kLongWait = 5 * kMillisecond;  // the scheduler gives time in slices of this order
constexpr int64_t kLongWork = 100 * kMillisecond;
constexpr int64_t kLookAgain = 40 * kMillisecond;  // a look takes some microseconds

struct State {
  std::mutex mutex;
  std::condition_variable ended;
  int64_t until = 0;  // the team sleeps until then
  bool asleep = false, refused = false;
};

// Never destroyed: the team may sleep on it while the process ends. A fork has no team, and begins anew.
State& state() {
  alignas(State) static unsigned char memory[sizeof(State)];
  static State* const first = [] {
    pthread_atfork(nullptr, nullptr, [] { new (memory) State; });
    return new (memory) State;
  }();
  return *first;
}

#if defined(REAREC_LIBGOMP)

constexpr int64_t kHold = 1000 * kMillisecond;
constexpr int kMostThreads = 64;  // of a team of ours: a process that leaves more processors to others finds one free

// Whoever says how OpenMP waits has it so.
bool is_set_by_user() {
  const char *policy = std::getenv("OMP_WAIT_POLICY"), *spins = std::getenv("GOMP_SPINCOUNT");
  return (policy && *policy) || (spins && *spins);
}

void* nothing(void*) { return nullptr; }

// libgomp ends the process where it gets no threads, so they are asked for before.
bool can_start(int threads) {
  pthread_t started[kMostThreads + 2];
  int count = 0;
  while (count < threads + 2 && pthread_create(&started[count], nullptr, nothing, nullptr) == 0) ++count;
  for (int i = 0; i < count; ++i) pthread_join(started[i], nullptr);
  return count == threads + 2;
}

void* hold_team(void* threads) {
  State& s = state();
  const int count = static_cast<int>(reinterpret_cast<intptr_t>(threads));
  if (can_start(count)) {
    int arrived = 0;
#pragma omp parallel num_threads(count + 1)
    __atomic_add_fetch(&arrived, 1, __ATOMIC_RELAXED);
    std::unique_lock<std::mutex> lock(s.mutex);
    while (now() < s.until) s.ended.wait_for(lock, std::chrono::nanoseconds(s.until - now()));
    s.asleep = false;
    return nullptr;  // libgomp frees the team of a thread that ends
  }
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.asleep = false;
  s.refused = true;
  return nullptr;
}

bool start(int threads) {
  sigset_t all, before;  // signals are for the user's threads
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t detached;
  pthread_attr_init(&detached);
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const bool started =
      pthread_create(&thread, &detached, hold_team, reinterpret_cast<void*>(static_cast<intptr_t>(threads))) == 0;
  pthread_attr_destroy(&detached);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return started;
}

void sleep_from_now_on(int threads) {
  static const bool is_settled = is_set_by_user();
  if (is_settled) return;
  const int free = omp_get_num_procs() - threads, needed = (free > 0 ? free : 0) + 1;
  if (needed > kMostThreads) return;
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.until = now() + kHold;
  if (!s.asleep && !s.refused) s.refused = !(s.asleep = start(needed));
}

#else

void sleep_from_now_on(int) {}

#endif

// Of the calling thread, in nanoseconds: how long it ran, and how long it waited to run.
struct Delay {
  int64_t ran, waited;
};

Delay read_delay() {
  char text[64] = {};
  const int file = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  if (file < 0) return {0, 0};
  const ssize_t count = read(file, text, sizeof text - 1);
  close(file);
  Delay delay{0, 0};
  if (count > 0) {
    char* rest = nullptr;
    delay.ran = std::strtoll(text, &rest, 10);
    delay.waited = std::strtoll(rest, nullptr, 10);
  }
  return delay;
}

}  // namespace

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void report_waiting(int threads, int64_t worked, int64_t waited) {
  // Of many regions together: a single long wait is a processor that the host of a virtual machine took away.
  static thread_local int64_t all_work = 0, all_waits = 0;
  all_work += worked;
  all_waits += waited;
  if (all_work + all_waits < kLongWork) return;
  if (all_waits >= all_work) sleep_from_now_on(threads);
  all_work = all_waits = 0;
}

void report_delay(int threads) {
  static thread_local int64_t looked = 0;
  static thread_local Delay before{-1, 0};
  const int64_t time = now();
  if (time - looked < kLookAgain) return;
  looked = time;
  const Delay delay = read_delay();
  const int64_t ran = delay.ran - before.ran, waited = delay.waited - before.waited;
  const bool is_first = before.ran < 0;
  before = delay;
  if (!is_first && waited >= kLongWait && waited >= ran / 3) sleep_from_now_on(threads);
}

bool waits_asleep() {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  return s.asleep;
}

}  // namespace rearec
