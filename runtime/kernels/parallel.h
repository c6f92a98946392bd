// How a kernel asks its host for threads, and which compiled copy of the kernels this is.
#pragma once

#include <cstdint>

// The kernels are compiled once per instruction set (build_kernels.py, CMakeLists.txt), each copy in a namespace of its
// own. Nothing else in them may have external linkage, also no inline function: a linker keeps one copy's for all, and
// an older processor may then meet instructions that it lacks.
#ifndef MVGPT_COPY
#define MVGPT_COPY baseline
#endif

namespace mvgpt {

using Range = void (*)(const void* arguments, int64_t begin, int64_t end);

// Calls `range` so that [0, count) is covered once, by any number of threads, and returns when all is done. Kernels
// compute every element in the same way whatever the partition, so the number of threads never changes a result.
using ParallelFor = void (*)(int64_t count, Range range, const void* arguments);

[[maybe_unused]] static void serial_for(int64_t count, Range range, const void* arguments) { range(arguments, 0, count); }

}  // namespace mvgpt
