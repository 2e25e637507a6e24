// What the kernels of every instruction set share with what calls them: tables, memory, and one unit of work.

#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DBN_VAE_DISPATCH  // the machine chooses an instruction set at run time
#endif

namespace dbn_vae {

constexpr double log_2 = 0.69314718055994530942;

enum class Kind { shared, by_sequence, by_step };
enum class Verb { filter, smooth, expect, decode, sample, recede };  // recede: the backward message alone
enum class Form { dense, quadratic, whitened, symbols };  // of the emissions: see potentials.py

// One long sequence in C pieces, which the kernels take for C sequences: see _pieces.hpp.  Rows of K numbers, one
// a piece; what is null is not asked for.
struct Pieces {
    const double* entering;  // log p(s_t | x before t) at the first step; for decode its counterpart
    const double* leaving;   // p(x after t | s_t) at the last step, up to a factor
    double *first, *last, *back;  // gamma of the first step, message after the last, b before the first
    double* log_z;           // one number a piece
    uint8_t* pointers;       // decode: predecessors, steps × K × W for every W pieces
    std::atomic<bool>* failed;  // set by a piece that scaled arithmetic cannot hold
};

// The potentials, as cpu.py hands them over: contiguous, canonical.
template <class T>
struct Problem {
    int64_t B, T_, K;
    Kind kind;
    const T *initial, *transition;
    const int64_t* lengths;  // null: all are T_ long
    Form form;
    const T* emission;                  // dense: B × T × K
    int64_t D;                          // quadratic, whitened: entries of a frame, otherwise 0
    const T *x, *mean, *scale;          // B × T × D; K × D; log σ, K × D, or L, K × D × D
    int64_t V;                          // symbols: how many there are, otherwise 0
    const T* symbols;                   // B × T, whole numbers
    const T* log_probs;                 // K × V
    const bool* observed;               // B × T × D (quadratic) or B × T; null: everything was
    const Pieces* pieces;               // null: the sequences are what they seem

    bool varies_in_time() const { return kind == Kind::by_step; }
    int64_t length(int64_t b) const { return lengths ? std::clamp<int64_t>(lengths[b], 0, T_) : T_; }
    int64_t statistics_rows() const {  // of K numbers
        if (form == Form::whitened) return 1 + D + D * D;
        return form == Form::symbols ? V : 3 * D;
    }
    int64_t statistics_size() const { return K * statistics_rows(); }
    int64_t totals_size() const { return K + K * K + statistics_size(); }
    int64_t pairs_size() const { return K * K * (varies_in_time() ? T_ - 1 : 1); }
    const T* log_transition(int64_t b, int64_t t) const {  // into step t
        if (kind == Kind::shared) return transition;
        if (kind == Kind::by_sequence) return transition + b * K * K;
        return transition + (b * (T_ - 1) + t - 1) * K * K;
    }
};

template <class T> struct Filtered { T *log_z, *probs, *log_normalizer; };
template <class T> struct Smoothed { T *log_z, *gamma, *xi; };
template <class T> struct Expected { const T* weights; T* log_z; };
template <class T> struct Decoded { int64_t* states; T* score; };
struct Sampled { int64_t* states; const double* uniform; int64_t draws; };

// Fresh memory costs a page fault per page, for a fast recursion as much as the work itself.
inline void ask_for_large_pages([[maybe_unused]] void* start, [[maybe_unused]] size_t size) {
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

// What _emission.hpp makes of the parameters once for all sequences; rows of `stride` numbers, one a state.
struct Emissions {
    int64_t stride;
    double *mean, *scale, *entry;  // quadratic, D rows: μ, 1 / (σ √2), −log σ − ½ log 2π
    double* factor;                // whitened, D (D + 1) / 2 rows: L⁻¹ / √2, the rows of its lower triangle in turn
    double *none, *complete;       // l of a frame at the means with nothing or everything observed
    double *logs, *rows;           // symbols, V + 1 rows: l and exp(l − peak)
    double *peak, *dip;            // symbols: the largest l of each row, the smallest finite l − peak
};

template <class T>
struct Job {
    Problem<T> problem;
    Verb verb;
    bool lanes;  // a vector holds one state of many sequences, not many states of one
    int64_t stride;
    Transitions transitions;  // if shared
    Emissions emissions;
    Filtered<T> filtered;
    Smoothed<T> smoothed;
    Expected<T> expected;
    Decoded<T> decoded;
    Sampled sampled;

    int64_t totals_size() const {  // numbers that are added up over sequences
        if (verb == Verb::expect) return problem.totals_size();
        return verb == Verb::smooth && problem.pieces ? problem.K * problem.K : 0;
    }
};

template <class T>
struct Kernels {
    int width;
    Transitions (*prepare)(const T* log_a, int64_t K, int64_t stride, Workspace&);
    Emissions (*prepare_emissions)(const Problem<T>&, Workspace&);
    void (*run)(const Job<T>&, const int64_t* members, int count, double* totals, Workspace&);
};

// One file each.
namespace baseline { template <class T> Kernels<T> kernels(); }
namespace avx2 { template <class T> Kernels<T> kernels(); }
namespace avx512 { template <class T> Kernels<T> kernels(); }

}  // namespace dbn_vae
