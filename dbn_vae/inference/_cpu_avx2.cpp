// The kernels for AVX2 and FMA.

#include "_kernels.hpp"

#ifdef DBN_VAE_DISPATCH
// By a pragma below the standard headers, not by an option: what other files share of these stays plain.
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace dbn_vae::avx2 {
constexpr int W = 4;
#include "_instruction_set.hpp"
}  // namespace dbn_vae::avx2
#pragma GCC pop_options
#endif
