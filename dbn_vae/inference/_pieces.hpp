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
// A sequence whose messages would fill memory, and that does not forget, is done piece after piece: forward once for
// the f of every piece, then, from the last piece to the first, forward again and backward (checkpointing: Griewank
// 1992).
//
// Viterbi is the same with max in place of Σ; predecessors are kept, and the path is read off from the end.

constexpr int64_t first_window = 32;  // steps on the far side of a cut to begin with

template <class T>
class Cut {
public:
    Cut(const Job<T>& whole, int64_t b, Workspace& memory)
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
    }

    static bool suits(const Problem<T>& p, Verb verb, int width, int64_t sequences, int64_t length) {
        return p.kind == Kind::shared && verb != Verb::sample && p.K <= 256 && sequences < 4 * width
               && length >= 512 * width;
    }

    // False if it has to be done in one piece; then nothing it has written counts.
    bool run(int threads, std::vector<double>& totals) {
        if (job.verb != Verb::decode && job.transitions.lossy) return false;
        if (at_once(threads, totals)) return true;
        const bool large = steps * K > (int64_t(1) << 22);  // 64 MB of messages
        return both() && large && in_turn(totals);
    }

private:
    Job<T> job;
    int64_t K, steps, size, C;
    Workspace& memory;
    std::vector<int64_t> lengths;
    std::vector<T> weights;
    double *entering, *leaving, *before, *last, *back, *first, *log_z;

    bool both() const { return job.verb == Verb::smooth || job.verb == Verb::expect; }

    void lay_out(int64_t pieces, int64_t steps_each) {
        C = pieces, size = steps_each;
        lengths.assign(size_t(C), size);
        lengths.back() = steps - (C - 1) * size;
        job.problem.B = C, job.problem.T_ = size, job.problem.lengths = lengths.data();
        entering = take(C), leaving = take(C), before = take(C), last = take(C), back = take(C), first = take(C);
        log_z = memory.template take<double>(C);
        for (int64_t k = 0; k < K; ++k) {
            entering[k] = double(job.problem.initial[k]);
            leaving[(C - 1) * K + k] = 1.0;
        }
        weights.assign(size_t(C), job.expected.weights ? *job.expected.weights : T(1));
    }

    bool at_once(int threads, std::vector<double>& totals) {
        job.lanes = true;
        // Pieces short enough for the cache and long against the windows; two units at least, for two cores; and a
        // tail for the rest, which is a unit of its own: lanes of one unit read, and write, as far as the longest.
        const int64_t best = std::clamp<int64_t>(8192 / K, 1024, 4096);
        const int64_t width = kernels<T>().width;
        const int64_t whole_units = std::max<int64_t>(steps / (best * width), 2);
        lay_out(whole_units * width + 1, (steps - 2 * first_window) / (whole_units * width));
        const bool decode = job.verb == Verb::decode;
        if (!settle(decode ? Verb::decode : Verb::filter, before)) return false;
        if (both() && !settle(Verb::recede, leaving)) return false;
        for (int64_t c = 1; c < C; ++c) enter(c);
        std::atomic<bool> failed{false};
        Pieces pieces{entering, leaving, first, last, back, log_z, nullptr, &failed};
        if (decode) pieces.pointers = memory.template take<uint8_t>((whole_units + 1) * width * size * K);
        Job<T> all = job;
        all.problem.pieces = &pieces;
        all.expected.weights = weights.data();
        const std::vector<double> sums = side_by_side(all, threads);
        if (failed) return false;
        for (int64_t c = 1; c < C; ++c) {
            if (!agree(before + c * K, last + (c - 1) * K)) return false;
            if (both() && !agree(back + c * K, leaving + (c - 1) * K)) return false;
        }
        return finish(sums, totals, pieces.pointers);
    }

    bool in_turn(std::vector<double>& totals) {
        job.lanes = false;
        lay_out((steps + 8191) / 8192, 8192);
        std::atomic<bool> failed{false};
        const Pieces forth{entering, nullptr, nullptr, last, nullptr, nullptr, nullptr, &failed};
        Job<T> forward = job;
        forward.verb = Verb::filter;
        forward.problem.pieces = &forth;
        for (int64_t c = 0; c + 1 < C; ++c) {
            in_units(forward, {c}, 1);
            if (failed) return false;
            std::copy(last + c * K, last + (c + 1) * K, before + (c + 1) * K);
            enter(c + 1);
        }
        const Pieces pieces{entering, leaving, first, last, back, log_z, nullptr, &failed};
        Job<T> both_ways = job;
        both_ways.problem.pieces = &pieces;
        both_ways.expected.weights = weights.data();
        std::vector<double> sums(size_t(both_ways.totals_size()), 0.0);
        for (int64_t c = C - 1; c >= 0; --c) {
            const std::vector<double> more = in_units(both_ways, {c}, 1);
            if (failed) return false;
            for (size_t i = 0; i < sums.size(); ++i) sums[i] += more[i];
            if (c) std::copy(back + c * K, back + (c + 1) * K, leaving + (c - 1) * K);
            if (c && !sound(leaving + (c - 1) * K)) return false;
        }
        return finish(sums, totals, nullptr);
    }

    // What the pieces found, as that of the one sequence.
    bool finish(std::vector<double> sums, std::vector<double>& totals, const uint8_t* pointers) {
        LongSum z;
        for (int64_t c = 0; c < C; ++c) {
            if (!std::isfinite(log_z[c])) return false;
            z.add(log_z[c]);
        }
        if (job.verb == Verb::decode) {
            *job.decoded.score = T(z.value());
            trace(pointers);
            return true;
        }
        T* const total = job.verb == Verb::smooth   ? job.smoothed.log_z
                         : job.verb == Verb::expect ? job.expected.log_z
                                                    : job.filtered.log_z;
        *total = T(z.value());
        if (both()) join(sums, totals);
        return true;
    }

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
        double *now = take(C), *then = forward ? last : back, *flat = take(C);
        std::fill(flat, flat + C * K, 0.0);
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
                for (int64_t c = 0; c + 1 < C && verb != Verb::decode; ++c)
                    if (!sound(now + c * K)) return false;
                return true;
            }
            std::swap(now, then);
        }
        return false;
    }

    // A message to be carried on in scaled arithmetic: none of its numbers may be close to the limits.
    bool sound(const double* row) const {
        const double top = *std::max_element(row, row + K);
        for (int64_t k = 0; k < K; ++k)
            if (!(row[k] == 0.0 || row[k] >= 1e-100 * top)) return false;
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

    // What f predicts of a piece's first step.
    void enter(int64_t c) {
        double *f = before + c * K, *to = entering + c * K;
        if (job.verb == Verb::decode) {
            for (int64_t k = 0; k < K; ++k) to[k] = double(best_predecessor(f, k).second);
            return;
        }
        const double total = std::accumulate(f, f + K, 0.0);
        for (int64_t k = 0; k < K; ++k) f[k] /= total;
        for (int64_t k = 0; k < K; ++k) to[k] = std::log(predicted(f, k)) + job.transitions.shift;
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
