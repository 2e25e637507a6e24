// The compiled kernels behind cpu.py: filter, smooth, expect, viterbi and sample on CPU tensors.
//
//   _kernels.hpp          what all files share: tables, memory, one unit of work
//   _instruction_set.hpp  the kernels, compiled once for every instruction set, in a file and a namespace each:
//                         _cpu_baseline.cpp, _cpu_avx2.cpp, _cpu_avx512.cpp; the machine decides at run time
//   _pieces.hpp           one long sequence on all lanes and cores
//   _k_best.hpp           the n most probable paths
//   _stays.hpp            chains of stays, for semi-Markov models
//   _maximize.hpp         whole updates of EM
//
// This file holds threads and the Python interface.

#include "_kernels.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <condition_variable>
#include <stdexcept>
#include <string>
#include <thread>

namespace dbn_vae {
namespace {

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
std::atomic<int64_t> cuts{0};  // sequences that were done in pieces

// Lanes pay once half of them are filled and the messages of W sequences fit in memory comfortably.
template <class T>
bool lanes_suit(const Problem<T>& p, Verb verb, int width, int64_t sequences) {
    return p.kind == Kind::shared && verb != Verb::sample && p.K <= 256 && 2 * sequences >= width
           && p.T_ * p.K * width <= (int64_t(1) << 24);
}

// Calls block(j) for every j < blocks, on this thread and helpers.  A helper that gets its turn only when all is done,
// which beside busy neighbours takes milliseconds, finds nothing to do, and nobody waits for it.
template <class F>
void share_out(int64_t blocks, int64_t helpers, const F& block) {
    struct Share {
        std::atomic<int64_t> next{0};
        int64_t done = 0;
        std::mutex mutex;
        std::condition_variable finished;
    };
    const auto share = std::make_shared<Share>();
    const auto work = [share, blocks, &block] {  // `block` is looked at only while some j is not done
        for (int64_t j = share->next++; j < blocks; j = share->next++) {
            block(j);
            const std::lock_guard<std::mutex> lock(share->mutex);
            if (++share->done == blocks) share->finished.notify_all();
        }
    };
    for (int64_t i = 0; i < helpers; ++i) std::thread(work).detach();
    work();
    std::unique_lock<std::mutex> lock(share->mutex);
    share->finished.wait(lock, [&] { return share->done == blocks; });
}

// Sequences that have steps, longest first, so that lanes end together.
template <class T>
std::vector<int64_t> present(const Problem<T>& p) {
    std::vector<int64_t> members;
    for (int64_t b = 0; b < p.B; ++b)
        if (p.length(b)) members.push_back(b);
    const auto longer = [&](int64_t a, int64_t b) { return p.length(a) > p.length(b); };
    std::stable_sort(members.begin(), members.end(), longer);
    return members;
}

// Runs the kernels over the job's sequences.  Returns the totals, where the verb has any.
template <class T>
std::vector<double> in_units(const Job<T>& job, std::vector<int64_t> members, int threads) {
    const Problem<T>& p = job.problem;
    const Kernels<T> kernel = kernels<T>();
    double work = 0.0;
    for (int64_t b : members) work += double(p.length(b)) * p.K * (p.K + 16 + p.D);

    // Units are shared out in blocks, whose number must not depend on the number of threads: sums are then the same
    // for any.
    const int64_t n = int64_t(members.size()), size = job.lanes ? kernel.width : 1, units = (n + size - 1) / size;
    const int64_t entries = job.totals_size();
    const int64_t blocks = std::min(units, entries ? std::clamp<int64_t>((1 << 22) / entries, 8, 128) : 256);
    std::vector<double> totals(size_t(std::max<int64_t>(blocks, 1) * entries), 0.0);
    const int64_t helpers = work < 3e5 ? 0 : std::min<int64_t>(threads, blocks) - 1;
    share_out(blocks, helpers, [&](int64_t j) {
        std::unique_ptr<Workspace> memory = workspaces.get();
        for (int64_t i = units * j / blocks; i < units * (j + 1) / blocks; ++i) {
            memory->clear();
            kernel.run(job, &members[i * size], int(std::min(size, n - i * size)), totals.data() + j * entries,
                       *memory);
        }
        workspaces.give(std::move(memory));
    });
    for (int64_t j = 1; j < blocks; ++j)
        for (int64_t i = 0; i < entries; ++i) totals[i] += totals[j * entries + i];
    totals.resize(size_t(entries));
    return totals;
}

#include "_pieces.hpp"

// Performs the job: long sequences in pieces where that is possible, the others side by side.
template <class T>
std::vector<double> perform(Job<T>& job, int threads) {
    const Problem<T>& p = job.problem;
    const Kernels<T> kernel = kernels<T>();
    std::unique_ptr<Workspace> shared = workspaces.get();
    shared->clear();
    std::vector<int64_t> members = present(p), rest;
    const int64_t n = int64_t(members.size());
    job.stride = (p.K + kernel.width - 1) / kernel.width * kernel.width;
    if (p.K <= 4) job.stride = 4;
    if (p.kind == Kind::shared && job.verb != Verb::decode)
        job.transitions = kernel.prepare(p.transition, p.K, job.stride, *shared);
    job.emissions = kernel.prepare_emissions(p, *shared);
    std::vector<double> totals(size_t(job.totals_size()), 0.0);
    for (int64_t b : members) {
        const bool cut = Cut<T>::suits(p, job.verb, kernel.width, n, p.length(b))
                         && Cut<T>(job, b, *shared).run(threads, totals);
        if (cut) ++cuts;
        else rest.push_back(b);
    }
    job.lanes = lanes_suit(p, job.verb, kernel.width, int64_t(rest.size()));
    if (!rest.empty()) {
        const std::vector<double> more = in_units(job, std::move(rest), threads);
        for (size_t i = 0; i < totals.size(); ++i) totals[i] += more[i];
    }
    workspaces.give(std::move(shared));
    return totals;
}

// Addresses arrive as integers: a data_ptr() costs a tenth of what any array protocol does.
using Address = uintptr_t;
template <class T> T* at(Address address) { return reinterpret_cast<T*>(address); }

struct Tables {
    bool in_double;
    int64_t B, T_, K;
    int kind;
    Address initial, transition, lengths;
    int threads;
    Form form = Form::dense;
    int64_t size = 0;  // D or V
    Address data = 0, observed = 0, parameter = 0, scale = 0;
};

template <class T>
Job<T> job(const Tables& c, Verb verb) {
    Job<T> j{};
    j.verb = verb;
    Problem<T>& p = j.problem;
    p.B = c.B, p.T_ = c.T_, p.K = c.K, p.kind = Kind(c.kind), p.form = c.form;
    p.initial = at<T>(c.initial), p.transition = at<T>(c.transition), p.lengths = at<int64_t>(c.lengths);
    p.observed = at<bool>(c.observed);
    if (p.form == Form::dense) {
        p.emission = at<T>(c.data);
    } else if (p.form != Form::symbols) {
        p.D = c.size, p.x = at<T>(c.data), p.mean = at<T>(c.parameter), p.scale = at<T>(c.scale);
    } else {
        p.V = c.size, p.symbols = at<T>(c.data), p.log_probs = at<T>(c.parameter);
        for (int64_t b = 0; b < p.B; ++b)
            for (int64_t i = b * p.T_; i < b * p.T_ + p.length(b); ++i)
                if ((!p.observed || p.observed[i]) && !(p.symbols[i] >= 0 && p.symbols[i] < p.V))
                    throw std::out_of_range("symbol " + std::to_string(p.symbols[i]) + " is not one of "
                                            + std::to_string(p.V));
    }
    return j;
}

// value in the n numbers of every step after a sequence's end
template <class T, class U>
void fill_padding(const Problem<T>& p, int64_t n, U* table, U value) {
    for (int64_t b = 0; b < p.B; ++b)
        std::fill(table + (b * p.T_ + p.length(b)) * n, table + (b + 1) * p.T_ * n, value);
}

// Without probs and log_normalizer, log_z alone.
template <class T>
void filter(const Tables& c, Address log_z, Address probs, Address log_normalizer) {
    Job<T> j = job<T>(c, Verb::filter);
    j.filtered = {at<T>(log_z), at<T>(probs), at<T>(log_normalizer)};
    if (probs) ask_for_large_pages(j.filtered.probs, c.B * c.T_ * c.K * sizeof(T));
    std::fill_n(j.filtered.log_z, c.B, T(0));  // what a sequence of length 0 has
    perform(j, c.threads);
    if (!probs) return;
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

// first (K,), pairs (K, K), statistics (3, K, D), (1, K, 1 + D + D²) or (1, K, V)
template <class T>
void expect(const Tables& c, Address weights, Address log_z, Address first, Address pairs,
            Address statistics) {
    Job<T> j = job<T>(c, Verb::expect);
    j.expected = {at<T>(weights), at<T>(log_z)};
    std::fill_n(j.expected.log_z, c.B, T(0));
    const std::vector<double> totals = perform(j, c.threads);
    const int64_t K = c.K, inner = j.problem.statistics_rows() / (c.form == Form::quadratic ? 3 : 1);
    const double* from = totals.data();
    std::copy(from, from + K, at<T>(first));
    std::copy(from + K, from + K + K * K, at<T>(pairs));
    from += K + K * K;  // rows of K, for every statistic and entry or symbol
    for (int64_t i = 0; i < j.problem.statistics_size(); ++i) {
        const int64_t k = i % K, d = i / K % inner, part = i / (K * inner);
        at<T>(statistics)[(part * K + k) * inner + d] = T(from[i]);
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

#include "_k_best.hpp"

template <class T>
void k_best(const Tables& c, int64_t n, Address states, Address score) {
    const Job<T> j = job<T>(c, Verb::decode);
    if (c.K * n > std::numeric_limits<int32_t>::max()) throw std::length_error("n times the number of states is over 2^31");
    const double work = double(c.B) * c.T_ * c.K * c.K * n;
    const int64_t room = c.T_ * c.K * n;
    // taken here: that there is not enough of it cannot be reported from a thread
    const std::unique_ptr<int32_t[]> origins(new int32_t[size_t(c.B * room)]);
    share_out(c.B, work < 3e5 ? 0 : std::min<int64_t>(c.threads, c.B) - 1, [&](int64_t b) {
        best_paths(j.problem, b, n, origins.get() + b * room, at<int64_t>(states) + b * c.T_, c.B * c.T_, at<T>(score) + b);
    });
}

#include "_stays.hpp"

// How many helpers a pass over ages is worth, for each of B sequences.
int64_t helpers(const Tables& c, int64_t D) {
    const double work = double(c.B) * c.T_ * c.K * (c.K + D);
    return work < 3e4 ? 0 : std::min<int64_t>(c.threads, c.B) - 1;
}

template <class T>
void scan_stays(const Tables& c, const Stays& s, bool best, const Scanned<T>& out) {
    const Job<T> j = job<T>(c, Verb::decode);
    share_out(c.B, helpers(c, s.D), [&](int64_t b) {
        best ? scan_stays<true>(j.problem, b, s, out) : scan_stays<false>(j.problem, b, s, out);
    });
}

template <class T>
void smooth_stays(const Tables& c, const Stays& s, const Scanned<T>& seen, const Stayed<T>& to) {
    const Job<T> j = job<T>(c, Verb::decode);
    share_out(c.B, helpers(c, s.D), [&](int64_t b) { smooth_stays(j.problem, b, s, seen, to); });
}

#include "_maximize.hpp"

}  // namespace
}  // namespace dbn_vae

NB_MODULE(_cpu, m) {
    using namespace dbn_vae;
    namespace nb = nanobind;
    using Free = nb::call_guard<nb::gil_scoped_release>;
    nb::set_leak_warnings(false);  // what estimators keep of their tables may outlive the interpreter
    nb::class_<Tables>(m, "Tables")
        .def(nb::init<bool, int64_t, int64_t, int64_t, int, Address, Address, Address, int>())
        .def("dense", [](Tables& c, Address emission) { c.data = emission; })
        .def("quadratic", [](Tables& c, int64_t D, Address x, Address observed, Address mean,
                             Address log_scale) {
            c.form = Form::quadratic, c.size = D, c.data = x, c.observed = observed;
            c.parameter = mean, c.scale = log_scale;
        })
        .def("whitened", [](Tables& c, int64_t D, Address x, Address observed, Address mean, Address scale_tril) {
            c.form = Form::whitened, c.size = D, c.data = x, c.observed = observed;
            c.parameter = mean, c.scale = scale_tril;
        })
        .def("symbols", [](Tables& c, int64_t V, Address symbols, Address observed, Address log_probs) {
            c.form = Form::symbols, c.size = V, c.data = symbols, c.observed = observed;
            c.parameter = log_probs;
        })
        .def("of", [](Tables c, Address data, int64_t T_, int threads) {  // one complete sequence
            c.B = 1, c.T_ = T_, c.lengths = c.observed = 0, c.data = data, c.threads = threads;
            return c;
        });
    m.def("filter", [](const Tables& c, Address log_z, Address probs, Address log_normalizer) {
        (c.in_double ? filter<double> : filter<float>)(c, log_z, probs, log_normalizer);
    }, Free());
    m.def("smooth", [](const Tables& c, Address log_z, Address gamma, Address xi) {
        (c.in_double ? smooth<double> : smooth<float>)(c, log_z, gamma, xi);
    }, Free());
    m.def("expect", [](const Tables& c, Address weights, Address log_z, Address first, Address pairs,
                       Address statistics) {
        (c.in_double ? expect<double> : expect<float>)(c, weights, log_z, first, pairs, statistics);
    }, Free());
    m.def("viterbi", [](const Tables& c, Address states, Address score) {
        (c.in_double ? viterbi<double> : viterbi<float>)(c, states, score);
    }, Free());
    m.def("sample", [](const Tables& c, Address uniform, int64_t draws, Address states) {
        (c.in_double ? sample<double> : sample<float>)(c, uniform, draws, states);
    }, Free());
    m.def("k_best", [](const Tables& c, int64_t n, Address states, Address score) {
        (c.in_double ? k_best<double> : k_best<float>)(c, n, states, score);
    }, Free());
    m.def("scan_stays", [](const Tables& c, Address duration, Address survival, int64_t D, bool best, Address begin,
                           Address end, Address state, Address normalizer) {
        const Stays s{at<double>(duration), at<double>(survival), D};
        const auto run = [&](auto zero) {
            using T = decltype(zero);
            scan_stays<T>(c, s, best, {at<T>(begin), at<T>(end), at<T>(state), at<T>(normalizer)});
        };
        c.in_double ? run(0.0) : run(0.0f);
    }, Free());
    m.def("smooth_stays", [](const Tables& c, Address duration, Address survival, int64_t D, Address begin, Address end,
                             Address normalizer, Address gamma, Address xi, Address ended, Address censored) {
        const Stays s{at<double>(duration), at<double>(survival), D};
        const auto run = [&](auto zero) {
            using T = decltype(zero);
            smooth_stays<T>(c, s, {at<T>(begin), at<T>(end), nullptr, at<T>(normalizer)},
                            {at<T>(gamma), at<T>(xi), at<T>(ended), at<T>(censored)});
        };
        c.in_double ? run(0.0) : run(0.0f);
    }, Free());
    nb::class_<Rows>(m, "Rows")
        .def("__init__", [](Rows* self, Address logits, Address alpha, bool frozen) {
            new (self) Rows{at<double>(logits), at<double>(alpha), frozen};
        });
    nb::class_<Climb>(m, "Climb")
        .def(nb::init<const Tables&, Rows, Rows, Address, Address>())
        .def("symbols", &Climb::emit)
        .def("gaussians", [](Climb& climb, Address mean, Address log_scale, Address centre, Address pull, Address scale,
                             double dof, Address floor, Address held, bool mean_frozen, bool variance_frozen) {
            climb.gaussians = {at<double>(mean), at<double>(log_scale), at<double>(centre), at<double>(pull),
                               at<double>(scale), dof, at<double>(floor), at<bool>(held), mean_frozen, variance_frozen};
        })
        .def("full_gaussians", [](Climb& climb, Address mean, Address factor, Address centre, Address pull, Address scale,
                                  double dof, Address floor, bool mean_frozen, bool covariance_frozen) {
            climb.full = {at<double>(mean), at<double>(factor), at<double>(centre), at<double>(pull), at<double>(scale),
                          dof, at<double>(floor), mean_frozen, covariance_frozen};
        })
        .def("expect", &Climb::expect, Free())
        .def("maximize", &Climb::maximize, Free())
        .def("log_prior", &Climb::log_prior)
        .def("sums", [](const Climb& climb, Address out) {
            std::copy(climb.sums.begin(), climb.sums.end(), at<double>(out));
        });
    // For tests: the instruction sets this machine has, best first, a way to choose one, and how many sequences were
    // done in pieces so far.
    m.def("cuts", [] { return cuts.load(); });
    m.def("instruction_sets", instruction_sets);
    m.def("select", [](const std::string& name) { chosen = name; });
}
