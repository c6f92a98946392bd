// How a kernel asks its host for threads.
#pragma once

#include <cstdint>

namespace mvgpt {

using Range = void (*)(const void* arguments, int64_t begin, int64_t end);

// Calls `range` so that [0, count) is covered once, by any number of threads, and returns when all is done. Kernels
// compute every element in the same way whatever the partition, so the number of threads never changes a result.
using ParallelFor = void (*)(int64_t count, Range range, const void* arguments);

inline void serial_for(int64_t count, Range range, const void* arguments) { range(arguments, 0, count); }

}  // namespace mvgpt
