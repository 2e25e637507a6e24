// The kernels for AVX-512.

#include "_kernels.hpp"

#ifdef DBN_VAE_DISPATCH
// By a pragma below the standard headers, not by an option: what other files share of these stays plain.
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512vl,avx512dq,avx512bw")
namespace dbn_vae::avx512 {
constexpr int W = 8;
#include "_instruction_set.hpp"
}  // namespace dbn_vae::avx512
#pragma GCC pop_options
#endif
