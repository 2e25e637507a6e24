// The compiled kernels behind cpu.py: filter, smooth, viterbi and sample on CPU tensors.
//
//   _simd.hpp              vectors, exp, log, transposition
//   _forward_backward.hpp  scaled arithmetic, which does nearly all the work
//   _exact.hpp             log space, for what scaled arithmetic cannot hold
//   _viterbi.hpp, _sample.hpp
//   _unit.hpp              which of them a unit of work needs
//
// Those are compiled once for every instruction set, each in its own namespace; the machine decides at run
// time.  This file holds what they share: tables, memory, threads, and the Python interface.

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr double log_2 = 0.69314718055994530942;

enum class Kind { shared, by_sequence, by_step };
enum class Verb { filter, smooth, decode, sample };

// The three tables of potentials, as cpu.py hands them over: contiguous, canonical.
template <class T>
struct Problem {
    int64_t B, T_, K;
    Kind kind;
    const T *initial, *transition, *emission;
    const int64_t* lengths;

    bool varies_in_time() const { return kind == Kind::by_step; }
    int64_t length(int64_t b) const { return std::clamp<int64_t>(lengths[b], 0, T_); }
    int64_t pairs_size() const { return K * K * (varies_in_time() ? T_ - 1 : 1); }
    const T* log_transition(int64_t b, int64_t t) const {  // into step t
        if (kind == Kind::shared) return transition;
        if (kind == Kind::by_sequence) return transition + b * K * K;
        return transition + (b * (T_ - 1) + t - 1) * K * K;
    }
};

template <class T> struct Filtered { T *log_z, *probs, *log_normalizer; };
template <class T> struct Smoothed { T *log_z, *gamma, *xi; };
template <class T> struct Decoded { int64_t* states; T* score; };
struct Sampled { int64_t* states; const double* uniform; int64_t draws; };

// Fresh memory costs a page fault per page, for a fast recursion as much as the work itself.
void ask_for_large_pages([[maybe_unused]] void* start, [[maybe_unused]] size_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = uintptr_t(1) << 21;
    const uintptr_t from = (uintptr_t(start) + page - 1) / page * page;
    const uintptr_t to = (uintptr_t(start) + size) / page * page;
    if (to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#endif
}

// Scratch memory of one thread: handed out piece by piece, taken back all at once.
class Workspace {
public:
    template <class V>
    V* take(int64_t n) {
        const size_t size = (size_t(n) * sizeof(V) + 63) / 64 * 64;
        if (blocks.empty() || used + size > blocks.back().size) {
            blocks.emplace_back(std::max(size, size_t(1) << 16));
            used = 0;
        }
        void* p = blocks.back().start.get() + used;
        used += size;
        return static_cast<V*>(p);
    }
    // The next unit will need about as much: one block then serves it.
    void clear() {
        if (blocks.size() > 1) {
            size_t total = 0;
            for (const Block& block : blocks) total += block.size;
            blocks.clear();
            blocks.emplace_back(total);
        }
        used = 0;
    }
    size_t held() const { return blocks.empty() ? 0 : blocks.back().size; }

private:
    struct Free { void operator()(char* p) const { ::operator delete[](p, std::align_val_t(64)); } };
    struct Block {
        explicit Block(size_t n)
            : size(n), start(static_cast<char*>(::operator new[](n, std::align_val_t(64)))) {
ask_for_large_pages(start.get(), n);
        }
        size_t size;
        std::unique_ptr<char, Free> start;
    };
    std::vector<Block> blocks;
    size_t used = 0;
};

// A few workspaces are kept from call to call.
class Workspaces {
public:
    std::unique_ptr<Workspace> get() {
        std::lock_guard<std::mutex> lock(mutex);
        if (kept.empty()) return std::make_unique<Workspace>();
        std::unique_ptr<Workspace> last = std::move(kept.back());
        kept.pop_back();
        return last;
    }
    void give(std::unique_ptr<Workspace> workspace) {
        std::lock_guard<std::mutex> lock(mutex);
        if (kept.size() < 16 && workspace->held() <= size_t(32) << 20) kept.push_back(std::move(workspace));
    }

private:
    std::mutex mutex;
    std::vector<std::unique_ptr<Workspace>> kept;
};

// A = exp(log A − shift) by rows and by columns, padded to `stride` columns of ones: a padding state has
// a predicted probability that trips no check, and emission 0.
struct Transitions {
    int64_t K, stride;
    double shift;
    bool lossy;  // some possible transition is too small for a product of scaled numbers
    double *by_row, *by_column;
};

template <class T>
struct Job {
    Problem<T> problem;
    Verb verb;
    bool lanes;  // a vector holds one state of many sequences, not many states of one
    int64_t stride;
    Transitions transitions;  // if shared
    Filtered<T> filtered;
    Smoothed<T> smoothed;
    Decoded<T> decoded;
    Sampled sampled;
};

template <class T>
struct Kernels {
    int width;
    Transitions (*prepare)(const T* log_a, int64_t K, int64_t stride, Workspace&);
    void (*run)(const Job<T>&, const int64_t* members, int count, Workspace&);
};

namespace baseline {
constexpr int W = 4;
#include "_simd.hpp"
#include "_forward_backward.hpp"
#include "_exact.hpp"
#include "_viterbi.hpp"
#include "_sample.hpp"
#include "_unit.hpp"
}  // namespace baseline

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DBN_VAE_DISPATCH
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int W = 4;
#include "_simd.hpp"
#include "_forward_backward.hpp"
#include "_exact.hpp"
#include "_viterbi.hpp"
#include "_sample.hpp"
#include "_unit.hpp"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512vl,avx512dq,avx512bw")
namespace avx512 {
constexpr int W = 8;
#include "_simd.hpp"
#include "_forward_backward.hpp"
#include "_exact.hpp"
#include "_viterbi.hpp"
#include "_sample.hpp"
#include "_unit.hpp"
}  // namespace avx512
#pragma GCC pop_options
#endif

std::vector<std::string> instruction_sets() {  // that this machine has, best first
    std::vector<std::string> names;
#ifdef DBN_VAE_DISPATCH
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        names.push_back("avx512");
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) names.push_back("avx2");
#endif
    names.push_back("baseline");
    return names;
}

std::string chosen = instruction_sets().front();

template <class T>
Kernels<T> kernels() {
#ifdef DBN_VAE_DISPATCH
    if (chosen == "avx512") return avx512::kernels<T>();
    if (chosen == "avx2") return avx2::kernels<T>();
#endif
    return baseline::kernels<T>();
}

Workspaces workspaces;

// Lanes pay once half of them are filled and the messages of W sequences fit in memory comfortably.
template <class T>
bool lanes_suit(const Problem<T>& p, Verb verb, int width, int64_t sequences) {
    return p.kind == Kind::shared && verb != Verb::sample && p.K <= 256 && 2 * sequences >= width
           && p.T_ * p.K * width <= (int64_t(1) << 24);
}

template <class T>
void perform(Job<T>& job, int threads) {
    const Problem<T>& p = job.problem;
    const Kernels<T> kernel = kernels<T>();
    std::unique_ptr<Workspace> shared = workspaces.get();
    shared->clear();

    std::vector<int64_t> members;
    double work = 0.0;
    for (int64_t b = 0; b < p.B; ++b) {
        work += double(p.length(b)) * p.K * (p.K + 16);
        if (p.length(b)) members.push_back(b);
    }
    const auto longer = [&](int64_t a, int64_t b) { return p.length(a) > p.length(b); };
    std::stable_sort(members.begin(), members.end(), longer);  // so that lanes end together
    const int64_t n = int64_t(members.size());
    job.lanes = lanes_suit(p, job.verb, kernel.width, n);
    job.stride = (p.K + kernel.width - 1) / kernel.width * kernel.width;
    if (p.K <= 4) job.stride = 4;
    if (p.kind == Kind::shared && job.verb != Verb::decode)
        job.transitions = kernel.prepare(p.transition, p.K, job.stride, *shared);

    const int64_t size = job.lanes ? kernel.width : 1, units = (n + size - 1) / size;
    std::atomic<int64_t> next{0};
    const auto worker = [&] {
        std::unique_ptr<Workspace> memory = workspaces.get();
        for (int64_t i = next++; i < units; i = next++) {
            memory->clear();
            kernel.run(job, &members[i * size], int(std::min(size, n - i * size)), *memory);
        }
        workspaces.give(std::move(memory));
    };
    const int64_t helpers = work < 3e5 ? 0 : std::min<int64_t>(threads, units) - 1;
    std::vector<std::thread> team;
    for (int64_t i = 0; i < helpers; ++i) team.emplace_back(worker);
    worker();
    for (std::thread& thread : team) thread.join();
    workspaces.give(std::move(shared));
}

// Addresses arrive as integers: a data_ptr() costs a tenth of what any array protocol does.
using Address = uintptr_t;
template <class T> T* at(Address address) { return reinterpret_cast<T*>(address); }

struct Tables {
    bool in_double;
    int64_t B, T_, K;
    int kind;
    Address initial, transition, emission, lengths;
    int threads;
};

template <class T>
Job<T> job(const Tables& c, Verb verb) {
    Job<T> j{};
    j.verb = verb;
    j.problem = {c.B, c.T_, c.K, Kind(c.kind), at<T>(c.initial), at<T>(c.transition),
                 at<T>(c.emission), at<int64_t>(c.lengths)};
    return j;
}

// value in the n numbers of every step after a sequence's end
template <class T, class U>
void fill_padding(const Problem<T>& p, int64_t n, U* table, U value) {
    for (int64_t b = 0; b < p.B; ++b)
        std::fill(table + (b * p.T_ + p.length(b)) * n, table + (b + 1) * p.T_ * n, value);
}

template <class T>
void filter(const Tables& c, Address log_z, Address probs, Address log_normalizer) {
    Job<T> j = job<T>(c, Verb::filter);
    j.filtered = {at<T>(log_z), at<T>(probs), at<T>(log_normalizer)};
    ask_for_large_pages(j.filtered.probs, c.B * c.T_ * c.K * sizeof(T));
    std::fill_n(j.filtered.log_z, c.B, T(0));  // what a sequence of length 0 has
    perform(j, c.threads);
    fill_padding(j.problem, c.K, j.filtered.probs, T(0));
    fill_padding(j.problem, 1, j.filtered.log_normalizer, T(0));
}

template <class T>
void smooth(const Tables& c, Address log_z, Address gamma, Address xi) {
    Job<T> j = job<T>(c, Verb::smooth);
    j.smoothed = {at<T>(log_z), at<T>(gamma), at<T>(xi)};
    ask_for_large_pages(j.smoothed.gamma, c.B * c.T_ * c.K * sizeof(T));
    ask_for_large_pages(j.smoothed.xi, c.B * j.problem.pairs_size() * sizeof(T));
    std::fill_n(j.smoothed.log_z, c.B, T(0));
    perform(j, c.threads);
    fill_padding(j.problem, c.K, j.smoothed.gamma, T(0));
    const int64_t size = j.problem.pairs_size(), pair = c.K * c.K;
    for (int64_t b = 0; b < c.B; ++b) {
        const int64_t length = j.problem.length(b);
        const int64_t used = j.problem.varies_in_time() ? std::max<int64_t>(length - 1, 0) * pair
                                                        : (length ? pair : 0);
        std::fill(j.smoothed.xi + b * size + used, j.smoothed.xi + (b + 1) * size, T(0));
    }
}

template <class T>
void viterbi(const Tables& c, Address states, Address score) {
    Job<T> j = job<T>(c, Verb::decode);
    j.decoded = {at<int64_t>(states), at<T>(score)};
    std::fill_n(j.decoded.score, c.B, T(0));
    perform(j, c.threads);
    fill_padding(j.problem, 1, j.decoded.states, int64_t(-1));
}

template <class T>
void sample(const Tables& c, Address uniform, int64_t draws, Address states) {
    Job<T> j = job<T>(c, Verb::sample);
    j.sampled = {at<int64_t>(states), at<double>(uniform), draws};
    perform(j, c.threads);
    for (int64_t s = 0; s < draws; ++s)
        fill_padding(j.problem, 1, j.sampled.states + s * c.B * c.T_, int64_t(-1));
}

}  // namespace

NB_MODULE(_cpu, m) {
    namespace nb = nanobind;
    using Free = nb::call_guard<nb::gil_scoped_release>;
    nb::class_<Tables>(m, "Tables")
        .def(nb::init<bool, int64_t, int64_t, int64_t, int, Address, Address, Address, Address, int>());
    m.def("filter", [](const Tables& c, Address log_z, Address probs, Address log_normalizer) {
        (c.in_double ? filter<double> : filter<float>)(c, log_z, probs, log_normalizer);
    }, Free());
    m.def("smooth", [](const Tables& c, Address log_z, Address gamma, Address xi) {
        (c.in_double ? smooth<double> : smooth<float>)(c, log_z, gamma, xi);
    }, Free());
    m.def("viterbi", [](const Tables& c, Address states, Address score) {
        (c.in_double ? viterbi<double> : viterbi<float>)(c, states, score);
    }, Free());
    m.def("sample", [](const Tables& c, Address uniform, int64_t draws, Address states) {
        (c.in_double ? sample<double> : sample<float>)(c, uniform, draws, states);
    }, Free());
    // For tests: the instruction sets this machine has, best first, and a way to choose one.
    m.def("instruction_sets", instruction_sets);
    m.def("select", [](const std::string& name) { chosen = name; });
}
