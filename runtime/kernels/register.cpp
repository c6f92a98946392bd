// The operators as ExecuTorch sees them: argument checks, the output's size, threads, registration.
#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/kernel/thread_parallel_interface.h>

#include <memory>
#include <new>

#include "kernels.h"

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
  mvgpt::kernels()->causal_conv1d_silu({length, d_inner, d_conv, xz.const_data_ptr<float>(), w.const_data_ptr<float>(),
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
  mvgpt::kernels()->selective_scan(
      {length, d_inner, d_state, dt_rank, xz.const_data_ptr<float>(), u.const_data_ptr<float>(),
       xdbl.const_data_ptr<float>(), dt.const_data_ptr<float>(), A2.const_data_ptr<float>(), D.const_data_ptr<float>(),
       dt_bias.const_data_ptr<float>(), reverse, out.mutable_data_ptr<float>()},
      threadpool_for);
  return out;
}

template <typename Element>
bool attend(const mvgpt::AttentionKernel<Element>& kernel, mvgpt::GroupedQueryAttention<Element> attention) {
  const int64_t count = kernel.scratch_floats(attention);
  const std::unique_ptr<float[]> scratch(count ? new (std::nothrow) float[count] : nullptr);
  if (count && !scratch) return false;
  attention.scratch = scratch.get();
  kernel.run(attention, threadpool_for);
  return true;
}

Tensor& grouped_query_attention_out(KernelRuntimeContext& context, const Tensor& q, const Tensor& kv, Tensor& k_cache,
                                    Tensor& v_cache, const Tensor& cos, const Tensor& sin, const Tensor& start_pos,
                                    Tensor& out) {
  using executorch::runtime::tensor_is_default_dim_order;
  MVGPT_CHECK(is_plain_float(q, 3) && is_plain_float(kv, 3) && is_plain_float(out, 3), InvalidArgument);
  MVGPT_CHECK(q.size(0) == 1 && kv.size(0) == 1, InvalidArgument);
  const int64_t queries = q.size(1), rows = kv.size(1);
  MVGPT_CHECK(queries >= 1 && queries <= rows, InvalidArgument);
  MVGPT_CHECK(v_cache.dim() == 3 && tensor_is_default_dim_order(v_cache), InvalidArgument);
  const int64_t kv_heads = v_cache.size(0), max_context = v_cache.size(1), head_dim = v_cache.size(2);
  MVGPT_CHECK(head_dim >= mvgpt::kKeyTile && head_dim <= mvgpt::kMaxHeadDim && head_dim % mvgpt::kKeyTile == 0 &&
                  kv_heads >= 1 && max_context % mvgpt::kKeyTile == 0,
              InvalidArgument);
  MVGPT_CHECK(k_cache.dim() == 4 && tensor_is_default_dim_order(k_cache) && k_cache.size(0) == kv_heads &&
                  k_cache.size(1) == max_context / mvgpt::kKeyTile && k_cache.size(2) == head_dim &&
                  k_cache.size(3) == mvgpt::kKeyTile && k_cache.scalar_type() == v_cache.scalar_type(),
              InvalidArgument);
  const int64_t heads = q.size(2) / head_dim;
  MVGPT_CHECK(heads >= 1 && q.size(2) == heads * head_dim && heads % kv_heads == 0, InvalidArgument);
  MVGPT_CHECK(kv.size(2) == 2 * kv_heads * head_dim, InvalidArgument);
  MVGPT_CHECK(is_matrix(cos, max_context, head_dim / 2) && is_matrix(sin, max_context, head_dim / 2), InvalidArgument);
  MVGPT_CHECK(start_pos.scalar_type() == ScalarType::Long && start_pos.numel() == 1, InvalidArgument);
  const int64_t start = *start_pos.const_data_ptr<int64_t>();
  MVGPT_CHECK(start >= 0 && start <= max_context - rows, InvalidArgument);
  const SizesType sizes[] = {1, static_cast<SizesType>(queries), static_cast<SizesType>(q.size(2))};
  MVGPT_CHECK(executorch::runtime::resize_tensor(out, {sizes, 3}) == Error::Ok, InvalidArgument);
  const auto call = [&](const auto& kernel, auto* k, auto* v) {
    return attend(kernel, mvgpt::GroupedQueryAttention<std::remove_pointer_t<decltype(k)>>{
        rows, queries, heads, kv_heads, head_dim, max_context, start, q.const_data_ptr<float>(),
        kv.const_data_ptr<float>(), cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), k, v,
        out.mutable_data_ptr<float>(), nullptr});
  };
  if (v_cache.scalar_type() == ScalarType::Half) {
    const auto half = [](Tensor& cache) { return static_cast<uint16_t*>(cache.mutable_data_ptr()); };
    MVGPT_CHECK(call(mvgpt::kernels()->half_attention, half(k_cache), half(v_cache)), MemoryAllocationFailed);
  } else {
    MVGPT_CHECK(v_cache.scalar_type() == ScalarType::Float, InvalidArgument);
    MVGPT_CHECK(call(mvgpt::kernels()->attention, k_cache.mutable_data_ptr<float>(),
                     v_cache.mutable_data_ptr<float>()),
                MemoryAllocationFailed);
  }
  return out;
}

Tensor& linear_4bit_out(KernelRuntimeContext& context, const Tensor& x, const Tensor& table, const Tensor& scales,
                        Tensor& out) {
  using executorch::runtime::tensor_is_default_dim_order;
  MVGPT_CHECK(is_plain_float(x, 3) && is_plain_float(out, 3) && x.size(0) == 1, InvalidArgument);
  MVGPT_CHECK(table.scalar_type() == ScalarType::Byte && table.dim() == 2 && tensor_is_default_dim_order(table),
              InvalidArgument);
  MVGPT_CHECK(scales.scalar_type() == ScalarType::Half && scales.dim() == 2 && tensor_is_default_dim_order(scales),
              InvalidArgument);
  const int64_t rows = x.size(1), width = x.size(2), outputs = table.size(0), groups = scales.size(1);
  MVGPT_CHECK(width >= 64 && width % 64 == 0 && width <= mvgpt::kMaxWidth4bit, InvalidArgument);
  MVGPT_CHECK(table.size(1) == width / 2 && scales.size(0) == outputs, InvalidArgument);
  MVGPT_CHECK(groups >= 1 && width % groups == 0, InvalidArgument);
  const int64_t group = width / groups;
  MVGPT_CHECK(group == 32 || group == 64 || group == 128, InvalidArgument);
  const SizesType sizes[] = {1, static_cast<SizesType>(rows), static_cast<SizesType>(outputs)};
  MVGPT_CHECK(executorch::runtime::resize_tensor(out, {sizes, 3}) == Error::Ok, InvalidArgument);
  mvgpt::kernels()->linear_4bit({rows, width, outputs, group, x.const_data_ptr<float>(), table.const_data_ptr<uint8_t>(),
                      static_cast<const uint16_t*>(scales.const_data_ptr()), out.mutable_data_ptr<float>()},
                     threadpool_for);
  return out;
}

Error register_operators() {
  using executorch::extension::make_boxed_kernel;
  static constexpr const char conv[] = "mvgpt::causal_conv1d_silu.out";
  static constexpr const char scan[] = "mvgpt::selective_scan.out";
  static constexpr const char attention[] = "mvgpt::grouped_query_attention.out";
  static constexpr const char linear[] = "mvgpt::linear_4bit.out";
  // No on a processor without AVX2: loading a program then reports the operators as missing.
  if (!mvgpt::kernels()) return Error::NotSupported;
  const executorch::runtime::Kernel kernels[] = {
      make_boxed_kernel(conv, EXECUTORCH_FN(causal_conv1d_silu_out, conv)),
      make_boxed_kernel(scan, EXECUTORCH_FN(selective_scan_out, scan)),
      make_boxed_kernel(attention, EXECUTORCH_FN(grouped_query_attention_out, attention)),
      make_boxed_kernel(linear, EXECUTORCH_FN(linear_4bit_out, linear)),
  };
  return executorch::runtime::register_kernels({kernels, sizeof(kernels) / sizeof(*kernels)});
}

[[maybe_unused]] const Error registered = register_operators();

}  // namespace

// For a host that links the kernels statically: a call keeps the linker from dropping this file, and tells the result.
extern "C" __attribute__((visibility("default"))) int mvgpt_kernels_registered() {
  return registered == Error::Ok;
}
