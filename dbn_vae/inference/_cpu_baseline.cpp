// The kernels for the instructions that every machine of this architecture has.

#include "_kernels.hpp"

namespace dbn_vae::baseline {
constexpr int W = 4;
#include "_instruction_set.hpp"
}  // namespace dbn_vae::baseline
