// EM from one update to the next without leaving C++: for a small problem everything else costs more than the recursion.
//
// The E-step is `expect`; the M-steps are those of Stationary, DiagonalGaussian and Categorical in emissions/ and
// transitions/, which define them.  Parameters are changed where they lie, in the tensors of the model.

// Rows of log-probabilities with Dirichlet priors, concentrations α.
struct Rows {
    double* logits;       // normalised
    const double* alpha;
    bool frozen;

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

class Climb {
public:
    // tables: fused emissions and shared transitions, in double; weights, log_z: B numbers; visits: K.
    Climb(const Tables& c, Rows initial, Rows moves, Address weights, Address log_z, Address visits)
        : c(c), initial(initial), moves(moves), weights(at<double>(weights)), log_z(at<double>(log_z)),
          visits(at<double>(visits)), starts(c.B * c.K) {}

    Rows symbols{};
    Gaussians gaussians{};

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
        for (int64_t k = 0; k < c.K; ++k) {
            visits[k] = sums[k];
            for (int64_t i = 0; i < c.K; ++i) visits[k] += sums[c.K + i * c.K + k];
        }
        return total;
    }

    void maximize() {
        const int64_t K = c.K, n = c.size;
        const double *pairs = sums.data() + K, *statistics = pairs + K * K;
        if (!initial.frozen) initial.maximize(0, K, [&](int64_t k) { return sums[k]; });
        for (int64_t i = 0; i < K && !moves.frozen; ++i)
            moves.maximize(i, K, [&](int64_t k) { return pairs[i * K + k]; });
        if (c.form == Form::symbols) {
            for (int64_t k = 0; k < K && !symbols.frozen; ++k)
                symbols.maximize(k, n, [&](int64_t v) { return statistics[v * K + k]; });
            return;
        }
        for (int64_t k = 0; k < K; ++k)
            for (int64_t d = 0; d < n; ++d) {
                const double* s = statistics + d * K + k;
                gaussians.maximize(k * n + d, d, s[0], s[n * K], s[2 * n * K]);
            }
    }

    double log_prior() const {
        const double chain = initial.log_prior(c.K) + moves.log_prior(c.K * c.K);
        return chain + (c.form == Form::symbols ? symbols.log_prior(c.K * c.size)
                                                : gaussians.log_prior(c.K * c.size));
    }

    // Of the last E-step: first states, moves (K, K), and the emission's, states innermost.
    std::vector<double> sums;

private:
    Tables c;
    Rows initial, moves;
    const double* weights;
    double *log_z, *visits;
    std::vector<double> starts;
};
