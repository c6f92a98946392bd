// The operators as ExecuTorch sees them: argument checks, the output's size, threads, registration.
#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/kernel/thread_parallel_interface.h>

#include "causal_conv1d_silu.h"
#include "selective_scan.h"

namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::KernelRuntimeContext;

bool is_plain_float(const Tensor& t, ssize_t rank) {
  return t.scalar_type() == ScalarType::Float && t.dim() == rank &&
         executorch::runtime::tensor_is_default_dim_order(t);
}

bool is_matrix(const Tensor& t, int64_t rows, int64_t columns) {
  return is_plain_float(t, 2) && t.size(0) == rows && t.size(1) == columns;
}

bool is_vector(const Tensor& t, int64_t size) { return is_plain_float(t, 1) && t.size(0) == size; }

void threadpool_for(int64_t count, mvgpt::Range range, const void* arguments) {
  if (count == 0) return;
  const auto task = [&](int64_t begin, int64_t end) { range(arguments, begin, end); };
  // false only for a malformed range, which no count gives
  (void)executorch::extension::parallel_for(0, count, 1, task);
}

Error resize(Tensor& out, int64_t rows, int64_t columns) {
  const SizesType sizes[] = {static_cast<SizesType>(rows), static_cast<SizesType>(columns)};
  return executorch::runtime::resize_tensor(out, {sizes, 2});
}

#define MVGPT_CHECK(condition, error) ET_KERNEL_CHECK(context, condition, error, out)

Tensor& causal_conv1d_silu_out(KernelRuntimeContext& context, const Tensor& xz, const Tensor& w, const Tensor& b,
                               bool reverse, Tensor& out) {
  MVGPT_CHECK(is_plain_float(xz, 2) && is_plain_float(w, 2) && is_plain_float(out, 2), InvalidArgument);
  const int64_t length = xz.size(0), d_conv = w.size(0), d_inner = w.size(1);
  MVGPT_CHECK(d_conv >= 1, InvalidArgument);
  MVGPT_CHECK(xz.size(1) == 2 * d_inner, InvalidArgument);
  MVGPT_CHECK(is_vector(b, d_inner), InvalidArgument);
  MVGPT_CHECK(resize(out, length, d_inner) == Error::Ok, InvalidArgument);
  mvgpt::causal_conv1d_silu({length, d_inner, d_conv, xz.const_data_ptr<float>(), w.const_data_ptr<float>(),
                             b.const_data_ptr<float>(), reverse, out.mutable_data_ptr<float>()},
                            threadpool_for);
  return out;
}

Tensor& selective_scan_out(KernelRuntimeContext& context, const Tensor& xz, const Tensor& u, const Tensor& xdbl,
                           const Tensor& dt, const Tensor& A2, const Tensor& D, const Tensor& dt_bias, bool reverse,
                           Tensor& out) {
  MVGPT_CHECK(is_plain_float(u, 2) && is_plain_float(xdbl, 2) && is_plain_float(A2, 2) && is_plain_float(out, 2),
              InvalidArgument);
  const int64_t length = u.size(0), d_inner = u.size(1), d_state = A2.size(0);
  const int64_t dt_rank = xdbl.size(1) - 2 * d_state;
  MVGPT_CHECK(d_state >= 1 && d_state <= mvgpt::kMaxState, InvalidArgument);
  MVGPT_CHECK(dt_rank >= 0 && xdbl.size(0) == length, InvalidArgument);
  MVGPT_CHECK(is_matrix(xz, length, 2 * d_inner), InvalidArgument);
  MVGPT_CHECK(is_matrix(dt, length, d_inner), InvalidArgument);
  MVGPT_CHECK(is_matrix(A2, d_state, d_inner), InvalidArgument);
  MVGPT_CHECK(is_vector(D, d_inner) && is_vector(dt_bias, d_inner), InvalidArgument);
  MVGPT_CHECK(resize(out, length, d_inner) == Error::Ok, InvalidArgument);
  mvgpt::selective_scan(
      {length, d_inner, d_state, dt_rank, xz.const_data_ptr<float>(), u.const_data_ptr<float>(),
       xdbl.const_data_ptr<float>(), dt.const_data_ptr<float>(), A2.const_data_ptr<float>(), D.const_data_ptr<float>(),
       dt_bias.const_data_ptr<float>(), reverse, out.mutable_data_ptr<float>()},
      threadpool_for);
  return out;
}

// The kernels are compiled for AVX2; this file is not, so that it can say no on an older processor: loading a program
// then reports the operators as missing.
bool processor_is_supported() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

Error register_operators() {
  using executorch::extension::make_boxed_kernel;
  static constexpr const char conv[] = "mvgpt::causal_conv1d_silu.out";
  static constexpr const char scan[] = "mvgpt::selective_scan.out";
  if (!processor_is_supported()) return Error::NotSupported;
  const executorch::runtime::Kernel kernels[] = {
      make_boxed_kernel(conv, EXECUTORCH_FN(causal_conv1d_silu_out, conv)),
      make_boxed_kernel(scan, EXECUTORCH_FN(selective_scan_out, scan)),
  };
  return executorch::runtime::register_kernels({kernels, 2});
}

[[maybe_unused]] const Error registered = register_operators();

}  // namespace

// For a host that links the kernels statically: a call keeps the linker from dropping this file, and tells the result.
extern "C" __attribute__((visibility("default"))) int mvgpt_kernels_registered() {
  return registered == Error::Ok;
}
