// The kernels for one instruction set: included inside its namespace, once in a program.  W numbers make a vector.
//
//   _simd.hpp              vectors, exp, log, transposition
//   _layout.hpp            how sequences lie in vectors
//   _emission.hpp          log-densities, computed where they are used
//   _forward_backward.hpp  scaled arithmetic, which does nearly all the work
//   _exact.hpp             log space, for what scaled arithmetic cannot hold
//   _expect.hpp            expected statistics for an M-step
//   _viterbi.hpp, _sample.hpp
//   _unit.hpp              which of them a unit of work needs

namespace {
#include "_simd.hpp"
#include "_layout.hpp"
#include "_emission.hpp"
#include "_forward_backward.hpp"
#include "_exact.hpp"
#include "_expect.hpp"
#include "_viterbi.hpp"
#include "_sample.hpp"
#include "_unit.hpp"
}  // namespace

template <class T>
Kernels<T> kernels() { return {W, prepare<T>, prepare_emissions<T>, run<T>}; }
template Kernels<float> kernels<float>();
template Kernels<double> kernels<double>();
