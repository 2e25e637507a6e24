// EM from one update to the next without leaving C++: for a small problem everything else costs more than the recursion.
//
// The E-step is `expect`; the M-steps are those of Stationary, DiagonalGaussian, FullGaussian and Categorical in
// emissions/ and transitions/, which define them.  Parameters are changed where they lie, in the tensors of the model.

// Rows of log-probabilities with Dirichlet priors, concentrations α.
struct Rows {
    double* logits;
    const double* alpha;
    bool frozen;

    // Each of `rows` rows of n logits as the logarithms of its softmax.
    void normalise(int64_t rows, int64_t n) const {
        for (double* row = logits; row != logits + rows * n; row += n) {
            const double highest = *std::max_element(row, row + n);
            double total = 0.0;
            for (int64_t k = 0; k < n; ++k) total += std::exp(row[k] - highest);
            const double log_total = highest + std::log(total);
            for (int64_t k = 0; k < n; ++k) row[k] -= log_total;
        }
    }

    // To argmax_p Σ (counts + α − 1) log p; count(k) is the k-th count of a row.  Exact zeros stay zeros, and a row with
    // nothing to learn from stays as it is.
    template <class Count>
    void maximize(int64_t row, int64_t n, const Count& count) const {
        double *out = logits + row * n, total = 0.0;
        const double* a = alpha + row * n;
        const auto weight = [&](int64_t k) {
            return std::isinf(out[k]) ? 0.0 : std::max(count(k) + (a[k] - 1.0), 0.0);
        };
        for (int64_t k = 0; k < n; ++k) total += weight(k);
        for (int64_t k = 0; k < n && total > 0.0; ++k) out[k] = std::log(weight(k) / total);
    }
    double log_prior(int64_t entries) const {
        double total = 0.0;
        for (int64_t i = 0; i < entries; ++i)
            if (alpha[i] != 1.0 && !std::isinf(logits[i])) total += (alpha[i] - 1.0) * logits[i];
        return total;
    }
};

// (μ_k, σ_k²) with the prior of emissions/gaussian.py, its numbers written out for every entry: K × D each.
struct Gaussians {
    double *mean, *log_scale;
    const double *centre, *pull, *scale;
    double dof;
    const double* floor;  // D
    bool* held;
    bool mean_frozen, variance_frozen;

    double prior_scatter(int64_t i) const {
        const double off = mean[i] - centre[i];
        return scale[i] + pull[i] * off * off;
    }
    void maximize(int64_t i, int64_t d, double count, double first, double second) const {
        double shift = 0.0;
        const double weight = pull[i] + count;
        if (!mean_frozen && weight > 0.0) shift = (first - pull[i] * (mean[i] - centre[i])) / weight;
        mean[i] += shift;
        if (variance_frozen) return;
        double variance = std::exp(2.0 * log_scale[i]);
        if (count + dof > 0.0)
            variance = (second - 2.0 * shift * first + count * shift * shift + prior_scatter(i)) / (count + dof);
        held[i] = variance < floor[d];
        variance = std::max({variance, floor[d], std::numeric_limits<double>::min()});
        log_scale[i] = 0.5 * std::log(variance);
    }
    double log_prior(int64_t entries) const {
        double total = 0.0;
        for (int64_t i = 0; i < entries; ++i)
            total += dof * 2.0 * log_scale[i] + prior_scatter(i) * std::exp(-2.0 * log_scale[i]);
        return -0.5 * total;
    }
};

// L of A = L Lᵀ in the place of A's lower triangle (D × D); false where A is not positive definite.
inline bool factorise(double* A, int64_t D) {
    for (int64_t i = 0; i < D; ++i)
        for (int64_t j = 0; j <= i; ++j) {
            double rest = A[i * D + j];
            for (int64_t m = 0; m < j; ++m) rest -= A[i * D + m] * A[j * D + m];
            if (i == j && !(rest > 0.0 && std::isfinite(rest))) return false;
            A[i * D + j] = i == j ? std::sqrt(rest) : rest / A[j * D + j];
        }
    return true;
}

// (μ_k, Σ_k = L_k L_kᵀ) with the same prior, its scale a matrix a state.
struct FullGaussians {
    double *mean, *factor;  // K × D, K × D × D
    const double *centre, *pull, *scale;
    double dof;
    const double* floor;  // D
    bool mean_frozen, covariance_frozen;

    // True where no covariance falls under its floor.  Otherwise nothing is changed: the floor is a matter of
    // eigenvalues, which FullGaussian knows.
    bool maximize(int64_t K, int64_t D, const double* statistics) {
        std::vector<double> means(size_t(K * D)), factors(size_t(K * D * D)), whitened(size_t(D * D)), low(size_t(D), 0.0);
        for (int64_t k = 0; k < K; ++k) {
            const auto s = [&](int64_t row) { return statistics[row * K + k]; };
            const auto second = [&](int64_t i, int64_t j) { return s(1 + D + i * D + j); };
            const double *S = scale + k * D * D, *L = factor + k * D * D;
            const double count = s(0), pulled = pull[k * D], weight = count + dof;
            double *m = &means[size_t(k * D)], *A = &factors[size_t(k * D * D)];
            std::vector<double> shift(size_t(D), 0.0);
            for (int64_t i = 0; i < D; ++i) {
                const double before = mean[k * D + i];
                if (!mean_frozen && pulled + count > 0.0)
                    shift[i] = (s(1 + i) - pulled * (before - centre[k * D + i])) / (pulled + count);
                m[i] = before + shift[i];
            }
            if (covariance_frozen) {
                std::copy(L, L + D * D, A);
                continue;
            }
            for (int64_t i = 0; i < D; ++i)
                for (int64_t j = 0; j <= i; ++j) {
                    double old = 0.0;
                    for (int64_t n = 0; n <= j; ++n) old += L[i * D + n] * L[j * D + n];
                    const double moved = second(i, j) - shift[i] * s(1 + j) - s(1 + i) * shift[j] + count * shift[i] * shift[j];
                    const double off = pulled * (m[i] - centre[k * D + i]) * (m[j] - centre[k * D + j]);
                    A[i * D + j] = weight > 0.0 ? (moved + off + S[i * D + j]) / weight : old;
                    if (i > j) continue;
                    // a difference of sums is only known to the rounding of its terms
                    const double rounding = 8.0 * std::numeric_limits<double>::epsilon()
                                            * (weight > 0.0 ? (second(i, i) + S[i * D + i]) / weight : old);
                    low[i] = std::sqrt(std::max({floor[i], rounding, 1e-300}));
                }
            for (int64_t i = 0; i < D; ++i)
                for (int64_t j = 0; j <= i; ++j) whitened[i * D + j] = A[i * D + j] / (low[i] * low[j]) - double(i == j);
            if (!factorise(whitened.data(), D) || !factorise(A, D)) return false;
        }
        std::copy(means.begin(), means.end(), mean);
        std::copy(factors.begin(), factors.end(), factor);
        return true;
    }

    // −½ Σ_k (dof log |Σ| + tr Σ⁻¹ scale + pull (μ − centre)ᵀ Σ⁻¹ (μ − centre)), from the rows of L⁻¹.
    double log_prior(int64_t K, int64_t D) const {
        double total = 0.0;
        std::vector<double> inverse(size_t(D * D));
        for (int64_t k = 0; k < K; ++k) {
            const double *L = factor + k * D * D, *S = scale + k * D * D;
            for (int64_t i = 0; i < D; ++i) {
                double* row = &inverse[size_t(i * D)];
                for (int64_t j = 0; j <= i; ++j) {
                    row[j] = i == j;
                    for (int64_t n = j; n < i; ++n) row[j] -= L[i * D + n] * inverse[size_t(n * D + j)];
                    row[j] /= L[i * D + i];
                }
                double spread = 0.0, off = 0.0;
                for (int64_t j = 0; j <= i; ++j) {
                    for (int64_t n = 0; n <= i; ++n) spread += row[j] * S[j * D + n] * row[n];
                    off += row[j] * (mean[k * D + j] - centre[k * D + j]);
                }
                total += 2.0 * dof * std::log(std::abs(L[i * D + i])) + spread + pull[k * D] * off * off;
            }
        }
        return -0.5 * total;
    }
};

class Climb {
public:
    // tables: fused emissions and shared transitions, in double; weights, log_z: B numbers.  All logits become the
    // logarithms of their softmax.
    Climb(const Tables& c, Rows initial, Rows moves, Address weights, Address log_z)
        : c(c), initial(initial), moves(moves), weights(at<double>(weights)), log_z(at<double>(log_z)),
          starts(c.B * c.K) {
        initial.normalise(1, c.K);
        moves.normalise(c.K, c.K);
    }

    void emit(Rows rows) {
        rows.normalise(c.K, c.size);
        symbols = rows;
    }
    Rows symbols{};
    Gaussians gaussians{};
    FullGaussians full{};

    // Σ_b weight_b log p(x_b), with the sums for the next maximize.
    double expect() {
        for (int64_t i = 0; i < c.B * c.K; ++i) starts[i] = initial.logits[i % c.K];
        c.initial = Address(starts.data());
        Job<double> j = job<double>(c, Verb::expect);
        j.expected = {weights, log_z};
        std::fill_n(log_z, c.B, 0.0);
        sums = perform(j, c.threads);
        double total = 0.0;
        for (int64_t b = 0; b < c.B; ++b) total += weights[b] * log_z[b];
        return total;
    }

    // False where the emission's M-step is left to the caller.
    bool maximize() {
        const int64_t K = c.K, n = c.size;
        const double *pairs = sums.data() + K, *statistics = pairs + K * K;
        if (!initial.frozen) initial.maximize(0, K, [&](int64_t k) { return sums[k]; });
        for (int64_t i = 0; i < K && !moves.frozen; ++i)
            moves.maximize(i, K, [&](int64_t k) { return pairs[i * K + k]; });
        if (c.form == Form::symbols) {
            for (int64_t k = 0; k < K && !symbols.frozen; ++k)
                symbols.maximize(k, n, [&](int64_t v) { return statistics[v * K + k]; });
            return true;
        }
        if (c.form == Form::whitened) return full.maximize(K, n, statistics);
        for (int64_t k = 0; k < K; ++k)
            for (int64_t d = 0; d < n; ++d) {
                const double* s = statistics + d * K + k;
                gaussians.maximize(k * n + d, d, s[0], s[n * K], s[2 * n * K]);
            }
        return true;
    }

    double log_prior() const {
        const double chain = initial.log_prior(c.K) + moves.log_prior(c.K * c.K);
        if (c.form == Form::symbols) return chain + symbols.log_prior(c.K * c.size);
        return chain + (c.form == Form::whitened ? full.log_prior(c.K, c.size) : gaussians.log_prior(c.K * c.size));
    }

    // Of the last E-step: first states, moves (K, K), and the emission's, states innermost.
    std::vector<double> sums;

private:
    Tables c;
    Rows initial, moves;
    const double* weights;
    double* log_z;
    std::vector<double> starts;
};
