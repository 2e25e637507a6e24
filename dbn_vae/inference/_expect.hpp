// What the M-step needs, summed over sequences with their weights w:
//
//     first_k  = Σ w gamma_1(k)           pairs_ij = Σ w xi_ij
//     quadratic:  Σ w gamma m,  Σ w gamma m (x − μ),  Σ w gamma m (x − μ)²        for every k and d
//     whitened:   Σ w gamma,  Σ w gamma (x − μ),  Σ w gamma (x − μ)(x − μ)ᵀ, of the frames that were observed
//     symbols:    Σ w gamma_t(k) [x_t = v]                                         for every k and v
//
// gamma never leaves the tile in which the backward pass makes it (symbols: the unit of work).  Sums are kept
// for every sequence until it is known whether scaled arithmetic could hold it, and go then to the totals of
// the block of sequences, which are plain numbers: a sequence done again in log space adds to the same.

// Where the parts of a block's totals lie.
template <class T>
struct Totals {
    double *first, *pairs, *statistics;
    Totals(const Problem<T>& p, double* start)
        : first(start), pairs(start + p.K), statistics(start + p.K + p.K * p.K) {}
};

// to += w · sum, for n rows of K; sequences with weight 0 add nothing, whatever their numbers are.
template <class L, class T>
void add_rows(const Rows<L, T>& u, const typename L::V* sums, int64_t n, typename L::Scalar weight,
              double* to) {
    if constexpr (L::sequences > 1) {
        using V = typename L::V;
        for (int64_t i = 0; i < n * u.K; ++i) to[i] += sum(weight != 0.0 ? sums[i] * weight : V{});
    } else if (weight != 0.0) {
        const double* from = reinterpret_cast<const double*>(sums);
        const int64_t pitch = u.R * int64_t(sizeof(typename L::V) / sizeof(double));
        for (int64_t i = 0; i < n; ++i)
            for (int64_t k = 0; k < u.K; ++k) to[i * u.K + k] += weight * from[i * pitch + k];
    }
}

// The sums of one unit over the steps seen so far.
template <class L, class T>
struct Scatters {
    using V = typename L::V;
    V *count, *first, *second;  // R; R × D; R × D × D vectors, of which j ≤ i
    V* row;                     // of one entry, over all states

    Scatters(const Rows<L, T>& u, Workspace& memory) {
        const int64_t R = u.R, D = u.problem.D, n = R * (1 + D + D * D);
        count = memory.take<V>(n + R);
        first = count + R, second = first + R * D, row = count + n;
        std::fill(count, count + n, V{});
    }

    void add(const Rows<L, T>& u, const Emissions& E, int64_t t0, int64_t steps, const V* gamma) {
        const int64_t R = u.R, D = u.problem.D;
        const bool complete = read_frames(u, t0, steps);
        V *d = u.deviations, *weighted = d + tile * D, weight[tile];
        for (int64_t r = 0; r < R; ++r) {
            deviate(u, E, steps, r, d);
            for (int64_t t = 0; t < steps; ++t) {
                weight[t] = complete ? gamma[t * R + r] : gamma[t * R + r] * u.seen[t];
                count[r] += weight[t];
            }
            for (int64_t i = 0; i < D; ++i) {
                V sum = first[r * D + i];
                for (int64_t t = 0; t < steps; ++t) sum += weighted[t * D + i] = weight[t] * d[t * D + i];
                first[r * D + i] = sum;
            }
            outer(weighted, d, steps, D, D, D, second + r * D * D, true);
        }
    }

    void add_to(const Rows<L, T>& u, typename L::Scalar weight, double* to) const {
        const int64_t D = u.problem.D;
        add_rows(u, count, 1, weight, to);
        for (int64_t i = 0; i < D; ++i) add_entry(u, first + i, D, weight, to + (1 + i) * u.K);
        for (int64_t i = 0; i < D; ++i)
            for (int64_t j = 0; j < D; ++j)  // the lower half was summed
                add_entry(u, second + std::max(i, j) * D + std::min(i, j), D * D, weight, to + (1 + D + i * D + j) * u.K);
    }

    void add_entry(const Rows<L, T>& u, const V* entry, int64_t pitch, typename L::Scalar weight, double* to) const {
        for (int64_t r = 0; r < u.R; ++r) row[r] = entry[r * pitch];
        add_rows(u, row, 1, weight, to);
    }
};

// The same for every entry by itself: R vectors for every entry d.
template <class L, class T>
struct Moments {
    using V = typename L::V;
    int64_t n;  // D × R
    V *all, *count, *first, *second;  // `all` counts the tiles in which nothing is missing: R vectors

    Moments(const Rows<L, T>& u, Workspace& memory) : n(u.problem.D * u.R) {
        all = memory.take<V>(u.R + 3 * n);
        count = all + u.R, first = count + n, second = first + n;
        std::fill(all, all + u.R + 3 * n, V{});
    }

    void add(const Rows<L, T>& u, const Emissions& E, int64_t t0, int64_t steps, const V* gamma) {
        using Weight = typename L::Weight;
        const int64_t R = u.R, D = u.problem.D, stride = E.stride / u.ratio;
        const Weight* mean = reinterpret_cast<const Weight*>(E.mean);
        const bool complete = read_frames(u, t0, steps);
        if (complete)
            for (int64_t t = 0; t < steps; ++t)
                for (int64_t r = 0; r < R; ++r) all[r] += gamma[t * R + r];
        for (int64_t d = 0; d < D; ++d)
            in_blocks(R, [&](auto block, int64_t r0) {
                const int64_t at = d * R + r0;
                V c[block], s[block], q[block];
                for (int b = 0; b < block; ++b) c[b] = s[b] = q[b] = V{};
                for (int64_t t = 0; t < steps; ++t) {
                    const auto x = u.frames[t * D + d];
                    for (int b = 0; b < block; ++b) {
                        V weight = gamma[t * R + r0 + b];
                        const V deviation = x - mean[d * stride + r0 + b];
                        if (!complete) c[b] += weight = weight * u.seen[t * D + d];
                        const V part = weight * deviation;
                        s[b] += part;
                        q[b] += part * deviation;
                    }
                }
                for (int b = 0; b < block; ++b) {
                    count[at + b] += c[b];
                    first[at + b] += s[b];
                    second[at + b] += q[b];
                }
            });
    }

    void add_to(const Rows<L, T>& u, typename L::Scalar weight, double* to) const {
        const int64_t D = u.problem.D, n = D * u.K;
        add_rows(u, count, D, weight, to);
        for (int64_t d = 0; d < D; ++d) add_rows(u, all, 1, weight, to + d * u.K);
        add_rows(u, first, D, weight, to + n);
        add_rows(u, second, D, weight, to + 2 * n);
    }
};

// The same for symbols: gamma is kept, in the place of the messages that are no longer needed, and counted at the end.
template <class L, class T>
struct Counts {
    using V = typename L::V;
    V* kept;
    double* rows;  // of W sequences: tile × K numbers each

    Counts(const Unit<L, T>& u, Workspace& memory)
        : kept(u.a), rows(memory.take<double>(L::sequences * tile * u.K)) {}

    void add(const Rows<L, T>& u, const Emissions&, int64_t t0, int64_t steps, const V* gamma) {
        std::copy(gamma, gamma + steps * u.R, kept + t0 * u.R);
    }

    void add_to(const Rows<L, T>& u, typename L::Scalar weight, double* to) const {
        const Problem<T>& p = u.problem;
        const int64_t pitch = L::sequences > 1 ? u.K : u.R * int64_t(sizeof(V) / sizeof(double));
        for (int64_t t0 = 0; t0 < u.steps; t0 += tile) {
            const int64_t n = std::min(tile, u.steps - t0);
            double* from[L::sequences];
            if constexpr (L::sequences > 1) {
                for (int w = 0; w < L::sequences; ++w) from[w] = rows + w * tile * u.K;
                scatter_lanes(kept + t0 * u.R, n * u.K, from);
            } else {
                from[0] = reinterpret_cast<double*>(kept + t0 * u.R);
            }
            for (int w = 0; w < u.count; ++w) {
                const double by = u.number(weight, w);
                if (by == 0.0) continue;
                for (int64_t t = 0; t < n; ++t) {
                    const int64_t v = symbol(p, u.members[w], t0 + t);
                    if (v == p.V) continue;
                    double* row = to + v * u.K;
                    for (int64_t k = 0; k < u.K; ++k) row[k] += by * from[w][t * pitch + k];
                }
            }
        }
    }
};

// One step of one sequence, as the log-space path counts it.
template <class T>
void add_step(const Problem<T>& p, int64_t b, int64_t t, const double* gamma, double weight, double* to) {
    if (p.form == Form::symbols) {
        const int64_t v = symbol(p, b, t);
        for (int64_t k = 0; k < p.K && v < p.V; ++k) to[v * p.K + k] += weight * gamma[k];
        return;
    }
    const int64_t at = (b * p.T_ + t) * p.D, n = p.D * p.K;
    if (p.form == Form::whitened) {
        if (p.observed && !p.observed[b * p.T_ + t]) return;
        for (int64_t k = 0; k < p.K; ++k) {
            const double part = weight * gamma[k];
            const auto deviation = [&](int64_t i) { return double(p.x[at + i]) - double(p.mean[k * p.D + i]); };
            to[k] += part;
            for (int64_t i = 0; i < p.D; ++i) {
                to[(1 + i) * p.K + k] += part * deviation(i);
                for (int64_t j = 0; j < p.D; ++j)
                    to[(1 + p.D + i * p.D + j) * p.K + k] += part * deviation(i) * deviation(j);
            }
        }
        return;
    }
    for (int64_t d = 0; d < p.D; ++d) {
        if (p.observed && !p.observed[at + d]) continue;
        for (int64_t k = 0; k < p.K; ++k) {
            const double deviation = double(p.x[at + d]) - double(p.mean[k * p.D + d]);
            const double part = weight * gamma[k];
            to[d * p.K + k] += part;
            to[n + d * p.K + k] += part * deviation;
            to[2 * n + d * p.K + k] += part * deviation * deviation;
        }
    }
}
