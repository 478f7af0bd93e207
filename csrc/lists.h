// Lists among the arguments of a kernel.
#pragma once
#include <cstdint>

namespace rearec {

template <class T>
struct List {
  const T* items;  // of the caller
  int64_t count;
};

// A list in the struct itself, for arguments that are copied to another device.
template <class T, int kMost>
struct ShortList {
  T items[kMost];
  int count;
};

}  // namespace rearec
