// The functions of one compiled copy of the kernels; compiled with its flags.
#include "kernels.h"

#define MVGPT_STRING_OF(x) #x
#define MVGPT_STRING(x) MVGPT_STRING_OF(x)

namespace mvgpt {
inline namespace MVGPT_COPY {

extern const Kernels copy = {MVGPT_STRING(MVGPT_COPY),
                             causal_conv1d_silu,
                             selective_scan,
                             linear_4bit,
                             {scratch_floats<float>, grouped_query_attention<float>},
                             {scratch_floats<uint16_t>, grouped_query_attention<uint16_t>}};

}  // namespace MVGPT_COPY
}  // namespace mvgpt
