// Threads that wait for each other on a machine whose processors others use too.
#pragma once
#include <cstdint>

namespace rearec {

// Nanoseconds of a clock that only grows.
int64_t now();

// A parallel region of `threads` threads has ended; the calling thread worked for `worked` nanoseconds, then waited for
// the others. Where threads do not get the time they want, OpenMP's threads sleep instead of spinning from here on, until
// a second has passed without more of it.
void report_waiting(int threads, int64_t worked, int64_t waited);

// Every thread of such a region, at its end: tells how long it had to wait for a processor.
void report_delay(int threads);

// Whether OpenMP's threads sleep now.
bool waits_asleep();

}  // namespace rearec
