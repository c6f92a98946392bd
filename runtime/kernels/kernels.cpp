// Finds out at run time which copies of the kernels the processor has the instructions for. Compiled for any processor.
#include "kernels.h"

#include <cstring>

namespace mvgpt {

namespace baseline {
extern const Kernels copy;
}
#if defined(__x86_64__)
namespace avx512 {
extern const Kernels copy;
}
#endif

namespace {

// The copies that this processor runs, the fastest first; ends with nullptr.
struct Copies {
  const Kernels* fit[3] = {};
  Copies() {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("f16c");
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512vnni");
    if (has_avx2 && has_avx512) fit[count++] = &avx512::copy;
    if (!has_avx2) return;
#endif
    fit[count] = &baseline::copy;
  }
};

const Copies& copies() {
  static const Copies found;
  return found;
}

const Kernels*& chosen() {
  static const Kernels* now = copies().fit[0];
  return now;
}

}  // namespace

const Kernels* kernels() { return chosen(); }

bool use_kernels(const char* name) {
  for (const Kernels* const copy : copies().fit) {
    if (copy && std::strcmp(copy->name, name) == 0) {
      chosen() = copy;
      return true;
    }
  }
  return false;
}

}  // namespace mvgpt
