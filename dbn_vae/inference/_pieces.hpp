// One long sequence on all lanes and cores: cut into pieces, which the kernels take for so many sequences.
//
// A piece needs what its neighbours know: f, the filtered probabilities before its first step, and b, the backward
// message after its last.  A chain forgets, so both are found from a few steps on the far side of the cut, started
// from a flat message: twice as many steps until the answer does not change.  That is a guess.  The proof comes
// after: each piece, having run over all its own steps, gives the f of the next piece and the b of the one before.
// The first f and the last b are exact, so if every guess agrees with what its neighbour found, all are exact by
// induction, to rounding; positive matrices do not enlarge a relative error (Birkhoff 1957).  If one does not agree,
// or the chain does not forget, or scaled arithmetic could not hold a piece, the sequence is done in one piece.
//
// Viterbi is the same with max in place of Σ; predecessors are kept, and the path is read off from the end.

constexpr int64_t first_window = 32;  // steps on the far side of a cut to begin with

template <class T>
class Cut {
public:
    Cut(const Job<T>& whole, int64_t b, int width, Workspace& memory)
        : job(whole), K(whole.problem.K), steps(whole.problem.length(b)), memory(memory) {
        Problem<T>& p = job.problem;
        const int64_t frames = b * p.T_;
        p.B = 1, p.initial += b * K;
        advance(p, frames);
        job.filtered = {at(job.filtered.log_z, b), at(job.filtered.probs, frames * K),
                        at(job.filtered.log_normalizer, frames)};
        job.smoothed = {at(job.smoothed.log_z, b), at(job.smoothed.gamma, frames * K),
                        at(job.smoothed.xi, b * K * K)};
        job.expected = {at(job.expected.weights, b), at(job.expected.log_z, b)};
        job.decoded = {at(job.decoded.states, frames), at(job.decoded.score, b)};
        job.lanes = true;
        // Pieces short enough for the cache and long against the windows; two units at least, for two cores; and a
        // tail for the rest, which is a unit of its own: lanes of one unit read, and write, as far as the longest.
        const int64_t best = std::clamp<int64_t>(8192 / K, 1024, 4096);
        const int64_t whole_units = std::max<int64_t>(steps / (best * width), 2);
        C = whole_units * width + 1;
        size = (steps - 2 * first_window) / (C - 1);
        lengths.assign(size_t(C), size);
        lengths.back() = steps - (C - 1) * size;
        p.B = C, p.T_ = size, p.lengths = lengths.data();
        entering = take(C), leaving = take(C), before = take(C), last = take(C), back = take(C), first = take(C);
        other = take(C), flat = take(C);
        log_z = memory.template take<double>(C);
        std::fill(flat, flat + C * K, 0.0);
    }

    static bool suits(const Problem<T>& p, Verb verb, int width, int64_t sequences, int64_t length) {
        return p.kind == Kind::shared && verb != Verb::sample && p.K <= 256 && sequences < 4 * width
               && length >= 512 * width;
    }

    // False if it has to be done in one piece; then nothing it has written counts.
    bool run(int threads, std::vector<double>& totals) {
        const bool decode = job.verb == Verb::decode;
        const bool both = job.verb == Verb::smooth || job.verb == Verb::expect;
        if (!decode && job.transitions.lossy) return false;
        if (!settle(decode ? Verb::decode : Verb::filter, before)) return false;
        if (both && !settle(Verb::recede, leaving)) return false;
        enter();
        std::fill(leaving + (C - 1) * K, leaving + C * K, 1.0);
        std::vector<uint8_t> predecessors;
        std::atomic<bool> failed{false};
        Pieces pieces{entering, leaving, first, last, back, log_z, nullptr, &failed};
        if (decode) {
            const int64_t width = kernels<T>().width, units = (C + width - 1) / width;
            uint8_t* p = memory.template take<uint8_t>(units * width * size * K);
            pieces.pointers = p;
        }
        weights.assign(size_t(C), job.expected.weights ? *job.expected.weights : T(1));
        T* const total_log_z = both ? (job.verb == Verb::smooth ? job.smoothed.log_z : job.expected.log_z)
                                    : job.filtered.log_z;
        job.problem.pieces = &pieces;
        job.expected.weights = weights.data();
        std::vector<double> sums = side_by_side(job, threads);
        if (failed) return false;
        for (int64_t c = 1; c < C; ++c) {
            if (!agree(before + c * K, last + (c - 1) * K)) return false;
            if (both && !agree(back + c * K, leaving + (c - 1) * K)) return false;
        }
        LongSum z;
        for (int64_t c = 0; c < C; ++c) {
            if (!std::isfinite(log_z[c])) return false;
            z.add(log_z[c]);
        }
        if (decode) {
            *job.decoded.score = T(z.value());
            trace(pieces.pointers);
            return true;
        }
        *total_log_z = T(z.value());
        if (both) join(sums, totals);
        return true;
    }

private:
    Job<T> job;
    int64_t K, steps, size, C;
    Workspace& memory;
    std::vector<int64_t> lengths;
    std::vector<T> weights;
    double *entering, *leaving, *before, *last, *back, *first, *other, *flat, *log_z;

    // Σ of many numbers, with what each addition rounds off (Knuth's two-sum).
    struct LongSum {
        double high = 0.0, low = 0.0;
        void add(double x) {
            const double sum = high + x, part = sum - high;
            low += (high - (sum - part)) + (x - part);
            high = sum;
        }
        double value() const { return high + low; }
    };

    double* take(int64_t rows) { return memory.template take<double>(rows * K); }
    template <class V>
    static V* at(V* table, int64_t offset) { return table ? table + offset : nullptr; }

    static void advance(Problem<T>& p, int64_t frames) {
        const int64_t entries = p.form == Form::quadratic ? p.D : 1;
        p.emission = at(p.emission, frames * p.K);
        p.x = at(p.x, frames * p.D);
        p.symbols = at(p.symbols, frames);
        p.observed = at(p.observed, frames * entries);
    }

    // The job's sequences, of which the last may be shorter than the others.
    static std::vector<double> side_by_side(const Job<T>& job, int threads) {
        std::vector<int64_t> members(size_t(job.problem.B));
        std::iota(members.begin(), members.end(), int64_t(0));
        const int64_t last = members.back();
        const bool tail = job.problem.length(last) != job.problem.length(0);
        if (tail) members.pop_back();
        std::vector<double> totals = in_units(job, std::move(members), threads);
        if (!tail) return totals;
        const std::vector<double> more = in_units(job, {last}, 1);
        for (size_t i = 0; i < totals.size(); ++i) totals[i] += more[i];
        return totals;
    }

    // What is known on the far side of each cut, from windows that grow until the answer settles.  Forward: row c is
    // the message after the last step of piece c − 1; backward: before the first of piece c + 1.
    bool settle(Verb verb, double* rows) {
        const bool forward = verb != Verb::recede;
        double *now = other, *then = forward ? last : back;
        for (int64_t window = first_window; window <= size; window *= 2) {
            Job<T> view = job;
            view.verb = verb;
            view.problem.B = C - 1;
            advance(view.problem, forward ? size - window : size);
            std::vector<int64_t> windows(size_t(C - 1), window);
            if (!forward) windows.back() = std::min(window, lengths.back());
            view.problem.lengths = windows.data();
            std::atomic<bool> failed{false};
            const Pieces pieces{flat, flat, nullptr, forward ? now : nullptr, forward ? nullptr : now,
                                nullptr, nullptr, &failed};
            view.problem.pieces = &pieces;
            view.filtered = {};
            side_by_side(view, 1);
            if (failed) return false;
            bool settled = window > first_window;
            for (int64_t c = 0; c + 1 < C && settled; ++c) settled = agree(now + c * K, then + c * K);
            if (settled) {
                std::copy(now, now + (C - 1) * K, rows + (forward ? K : 0));
                return sound(rows + (forward ? K : 0), verb);
            }
            std::swap(now, then);
        }
        return false;
    }

    // Messages are to be carried on in scaled arithmetic: none of their numbers may be close to its limits.
    bool sound(const double* rows, Verb verb) const {
        if (verb == Verb::decode) return true;
        for (int64_t c = 0; c + 1 < C; ++c) {
            const double top = *std::max_element(rows + c * K, rows + (c + 1) * K);
            for (int64_t k = 0; k < K; ++k)
                if (!(rows[c * K + k] == 0.0 || rows[c * K + k] >= 1e-100 * top)) return false;
        }
        return true;
    }

    // Equal up to a factor; for decode, up to a constant.
    bool agree(const double* x, const double* y) const {
        double low = INFINITY, high = -INFINITY, scale = 1.0;
        for (int64_t k = 0; k < K; ++k) {
            if (x[k] == y[k] && (job.verb == Verb::decode ? x[k] == -INFINITY : x[k] == 0.0)) continue;
            const double ratio = job.verb == Verb::decode ? x[k] - y[k] : x[k] / y[k];
            low = std::min(low, ratio), high = std::max(high, ratio);
            if (job.verb == Verb::decode) scale = std::max(scale, std::abs(x[k]));
            if (!std::isfinite(ratio)) return false;
        }
        if (high == -INFINITY) return false;  // no state is possible
        if (job.verb == Verb::decode) return high - low <= 64 * double(std::numeric_limits<T>::epsilon()) * scale;
        return high - low <= 64 * std::numeric_limits<double>::epsilon() * low;
    }

    // The first step's predictions: of the model for the first piece, of f for the others.
    void enter() {
        const Problem<T>& p = job.problem;
        for (int64_t k = 0; k < K; ++k) entering[k] = double(p.initial[k]);
        for (int64_t c = 1; c < C; ++c) {
            double *f = before + c * K, *to = entering + c * K;
            if (job.verb == Verb::decode) {
                for (int64_t k = 0; k < K; ++k) to[k] = double(best_predecessor(f, k).second);
                continue;
            }
            double total = 0.0;
            for (int64_t k = 0; k < K; ++k) total += f[k];
            for (int64_t k = 0; k < K; ++k) f[k] /= total;
            for (int64_t k = 0; k < K; ++k) to[k] = std::log(predicted(f, k)) + job.transitions.shift;
        }
    }

    double predicted(const double* f, int64_t k) const {  // without the shift of log A
        const double* column = job.transitions.by_column + k * job.transitions.stride;
        double sum = 0.0;
        for (int64_t i = 0; i < K; ++i) sum += f[i] * column[i];
        return sum;
    }

    std::pair<int64_t, T> best_predecessor(const double* m, int64_t k) const {
        const T* A = job.problem.transition;
        std::pair<int64_t, T> best{0, T(m[0]) + A[k]};
        for (int64_t i = 1; i < K; ++i) {
            const T arrive = T(m[i]) + A[i * K + k];
            if (arrive > best.second) best = {i, arrive};
        }
        return best;
    }

    // Sums over the pieces, and the pairs that straddle a cut: p(s = i before it | s = k after it) gamma(k).
    void join(std::vector<double>& sums, std::vector<double>& totals) {
        const bool smoothing = job.verb == Verb::smooth;
        const double weight = smoothing ? 1.0 : double(weights[0]);
        double* pairs = sums.data() + (smoothing ? 0 : K);
        for (int64_t c = 1; c < C; ++c) {
            const double* f = before + c * K;
            for (int64_t k = 0; k < K; ++k) {
                const double gamma = first[c * K + k];
                if (gamma == 0.0 || weight == 0.0) continue;
                const double* column = job.transitions.by_column + k * job.transitions.stride;
                const double share = weight * gamma / predicted(f, k);
                for (int64_t i = 0; i < K; ++i) pairs[i * K + k] += share * f[i] * column[i];
            }
        }
        if (smoothing) {
            for (int64_t i = 0; i < K * K; ++i) job.smoothed.xi[i] = T(pairs[i]);
        } else {
            for (int64_t k = 0; k < K && weight != 0.0; ++k) sums[k] += weight * first[k];
            for (size_t i = 0; i < sums.size(); ++i) totals[i] += sums[i];
        }
    }

    void trace(const uint8_t* pointers) {
        const int64_t W = kernels<T>().width;
        const double* m = last + (C - 1) * K;
        int64_t state = std::max_element(m, m + K) - m;
        for (int64_t c = C - 1; c >= 0; --c) {
            const uint8_t* piece = pointers + c / W * W * size * K + c % W;
            int64_t* states = job.decoded.states + c * size;
            for (int64_t t = lengths[size_t(c)] - 1; t > 0; --t) {
                states[t] = state;
                state = piece[(t * K + state) * W];
            }
            states[0] = state;
            if (c) state = best_predecessor(before + c * K, state).first;
        }
    }
};
