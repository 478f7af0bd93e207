// Threads that wait for each other on a machine whose processors others use too.
#pragma once
#include <cstdint>

namespace rearec {

// Nanoseconds of a clock that only grows.
int64_t now();

// A parallel region of `threads` threads has ended: the calling thread worked for `worked` nanoseconds, then waited for
// the others. Where it waited longer than threads do that have a processor each, OpenMP's threads sleep instead of
// spinning until a second has passed without such a wait.
void report_waiting(int threads, int64_t worked, int64_t waited);

// Whether they sleep now.
bool waits_asleep();

}  // namespace rearec
