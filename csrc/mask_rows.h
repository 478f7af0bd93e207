// Which rows of a dropout mask the rows of a call are: a call may have some rows of a batch that is cut into shares.
#pragma once
#include <cstdint>

#include "philox.h"

namespace rearec {

// The rows of the call are, `rows` at a time, the rows [first, first + rows) of runs of `of` rows. Below 2^31 each.
struct MaskRows {
  uint32_t first = 0;
  uint32_t rows = 1;
  uint32_t of = 1;

  // Of a row of the call, among all rows. The usual call has all of them: it does not divide.
  template <class Int>
  REAREC_HOST_DEVICE Int number(Int row) const {
    if (rows == of) return row;
    return static_cast<Int>(first) + row + row / static_cast<Int>(rows) * static_cast<Int>(of - rows);
  }
};

}  // namespace rearec
