// Chains of stays, sequence by sequence, as durations.py has them: the recursion over the age of the present stay.
//
// Logarithms throughout, each sum with a maximum of its own: ages and durations may lie thousands of nats apart.

constexpr double never = -std::numeric_limits<double>::infinity();

struct Stays {
    const double *duration, *survival;  // K × D
    int64_t D;
};

// What the pass forward leaves: B × T × K, and c B × T.  See Scan in durations.py.
template <class T>
struct Scanned {
    T *begin, *end, *state, *c;
};

template <bool best, class Term>
double reduced(int64_t n, const Term& term) {
    double high = never, total = 0.0;
    for (int64_t i = 0; i < n; ++i) high = std::max(high, term(i));
    if (best || !std::isfinite(high)) return high;
    for (int64_t i = 0; i < n; ++i) total += std::exp(term(i) - high);
    return high + std::log(total);
}

template <bool best, class T>
void scan_stays(const Problem<T>& p, int64_t b, const Stays& s, const Scanned<T>& out) {
    const int64_t K = p.K, D = s.D, steps = p.length(b);
    std::vector<double> age(K * D, never), begin(K), end(K), state(K);
    for (int64_t t = 0; t < p.T_; ++t) {
        const int64_t row = (b * p.T_ + t) * K;
        if (t >= steps) {
            std::fill_n(out.begin + row, K, T(never)), std::fill_n(out.end + row, K, T(never));
            std::fill_n(out.state + row, K, T(never)), out.c[b * p.T_ + t] = T(0);
            continue;
        }
        const T* emission = p.emission + row;
        for (int64_t k = 0; k < K; ++k) {
            begin[k] = t == 0 ? double(p.initial[b * K + k]) : reduced<best>(K, [&, A = p.log_transition(b, t)](int64_t j) {
                return end[j] + double(A[j * K + k]);
            });
        }
        double c = never;
        for (int64_t k = 0; k < K; ++k) {
            double* a = &age[k * D];
            std::copy_backward(a, a + D - 1, a + D);
            a[0] = begin[k];
            for (int64_t d = 0; d < D; ++d) a[d] += double(emission[k]);
            const double* survival = s.survival + k * D;
            state[k] = reduced<best>(D, [&](int64_t d) { return a[d] + survival[d]; });
        }
        c = reduced<best>(K, [&](int64_t k) { return state[k]; });
        const double shift = std::isfinite(c) ? c : 0.0;
        for (double& value : age) value -= shift;
        for (int64_t k = 0; k < K; ++k) {
            const double *a = &age[k * D], *duration = s.duration + k * D;
            end[k] = reduced<best>(D, [&](int64_t d) { return a[d] + duration[d]; });
            out.begin[row + k] = T(begin[k]), out.end[row + k] = T(end[k]), out.state[row + k] = T(state[k] - shift);
        }
        out.c[b * p.T_ + t] = T(c);
    }
}

// Expected states, moves and stays of one sequence: gamma T × K, xi K × K, ended and censored K × D, all 0 at first.
template <class T>
struct Stayed {
    T *gamma, *xi, *ended, *censored;
};

template <class T>
void smooth_stays(const Problem<T>& p, int64_t b, const Stays& s, const Scanned<T>& seen, const Stayed<T>& to) {
    const int64_t K = p.K, D = s.D, steps = p.length(b), first = b * p.T_;
    for (int64_t t = 0; t < steps; ++t)
        if (seen.c[first + t] == T(never)) return;  // impossible: nothing is expected
    std::vector<double> backward(s.survival, s.survival + K * D), age(K * D), grown(K * D), leave(K);
    std::vector<double> xi(K * K), ended(K * D), censored(K * D);
    const auto relative = [&](int64_t t, int64_t k) {
        return double(p.emission[(first + t) * K + k]) - double(seen.c[first + t]);
    };
    for (int64_t t = steps - 1; t >= 0; --t) {
        for (int64_t k = 0; k < K; ++k) {  // again, from where each age began: to keep all would take D times the memory
            double since = 0.0;
            for (int64_t d = 0; d < D; ++d) {
                if (d <= t) since += relative(t - d, k);
                age[k * D + d] = d <= t ? double(seen.begin[(first + t - d) * K + k]) + since : never;
            }
        }
        if (t < steps - 1) {
            const T* A = p.log_transition(b, t + 1);
            for (int64_t k = 0; k < K; ++k) {
                const double next = relative(t + 1, k);
                for (int64_t d = 0; d < D; ++d) grown[k * D + d] = next + backward[k * D + d];
            }
            for (int64_t i = 0; i < K; ++i) {
                const double end = double(seen.end[(first + t) * K + i]);
                leave[i] = reduced<false>(K, [&](int64_t j) { return double(A[i * K + j]) + grown[j * D]; });
                for (int64_t j = 0; j < K; ++j) xi[i * K + j] += std::exp(end + double(A[i * K + j]) + grown[j * D]);
            }
            for (int64_t i = 0; i < K * D; ++i) {
                const double over = leave[i / D] + s.duration[i], stay = (i + 1) % D ? grown[i + 1] : never;
                const double high = std::max(over, stay);
                const double low = std::min(over, stay);
                backward[i] = low == never ? high : high + std::log1p(std::exp(low - high));
                ended[i] += std::exp(age[i] + over);
            }
        } else {
            for (int64_t i = 0; i < K * D; ++i) censored[i] += std::exp(age[i] + s.survival[i]);
        }
        for (int64_t k = 0; k < K; ++k) {
            double gamma = 0.0;
            for (int64_t i = k * D; i < (k + 1) * D; ++i) gamma += std::exp(age[i] + backward[i]);
            to.gamma[(first + t) * K + k] = T(gamma);
        }
    }
    std::transform(xi.begin(), xi.end(), to.xi + b * K * K, [](double x) { return T(x); });
    std::transform(ended.begin(), ended.end(), to.ended + b * K * D, [](double x) { return T(x); });
    std::transform(censored.begin(), censored.end(), to.censored + b * K * D, [](double x) { return T(x); });
}
