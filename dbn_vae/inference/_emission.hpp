// Emissions, read from a table or computed where they are used.
//
//     quadratic:  l_t(k) = Σ_d m_td ( −log σ_kd − ½ log 2π − ((x_td − μ_kd) / σ_kd)² / 2 )
//     whitened:   l_t(k) = −log det L_k − D/2 log 2π − |L_k⁻¹ (x_t − μ_k)|² / 2
//     symbols:    l_t(k) = log B(k, x_t)
//
// with m_td = 1 where the entry was observed; of a whitened frame all entries were, or none.  A difference is taken before
// it is squared, for every state, so neither a large offset of the data nor states far apart cost digits.  A symbol's
// exponentials are taken once for all steps; row V of those tables is the symbol that was not observed, of probability 1.

template <class T>
Emissions prepare_emissions(const Problem<T>& p, Workspace& memory) {
    const int64_t K = p.K, stride = (K + 7) / 8 * 8;
    Emissions E{};
    E.stride = stride;
    if (p.form == Form::quadratic) {
        E.mean = memory.take<double>(p.D * stride);
        E.scale = memory.take<double>(p.D * stride);
        E.entry = memory.take<double>(p.D * stride);
        E.none = memory.take<double>(stride);
        E.complete = memory.take<double>(stride);
        for (int64_t k = 0; k < stride; ++k) E.complete[k] = E.none[k] = k < K ? 0.0 : -INFINITY;
        for (int64_t d = 0; d < p.D; ++d)
            for (int64_t k = 0; k < stride; ++k) {
                const int64_t to = d * stride + k, from = k * p.D + d;
                const double log_scale = k < K ? double(p.scale[from]) : 0.0;
                E.mean[to] = k < K ? double(p.mean[from]) : 0.0;
                E.scale[to] = std::exp(-log_scale) * 0.70710678118654752440;
                E.entry[to] = -log_scale - 0.91893853320467274178;
                E.complete[k] += E.entry[to];
            }
    } else if (p.form == Form::whitened) {
        E.mean = memory.take<double>(p.D * stride);
        E.factor = memory.take<double>(p.D * (p.D + 1) / 2 * stride);
        E.complete = memory.take<double>(stride);
        std::vector<double> inverse(size_t(p.D * p.D));  // of L, by forward substitution
        for (int64_t k = 0; k < stride; ++k) {
            const T* L = p.scale + k * p.D * p.D;
            E.complete[k] = k < K ? -0.91893853320467274178 * double(p.D) : -INFINITY;
            for (int64_t i = 0, row = 0; i < p.D; ++i) {
                E.mean[i * stride + k] = k < K ? double(p.mean[k * p.D + i]) : 0.0;
                if (k < K) E.complete[k] -= std::log(std::abs(double(L[i * p.D + i])));
                for (int64_t j = 0; j <= i; ++j, ++row) {
                    double& w = inverse[size_t(i * p.D + j)] = i == j;
                    for (int64_t m = j; m < i && k < K; ++m)
                        w -= double(L[i * p.D + m]) * inverse[size_t(m * p.D + j)];
                    if (k < K) w /= double(L[i * p.D + i]);
                    E.factor[row * stride + k] = k < K ? w * 0.70710678118654752440 : 0.0;
                }
            }
        }
    } else if (p.form == Form::symbols) {
        E.logs = memory.take<double>((p.V + 1) * stride);
        E.rows = memory.take<double>((p.V + 1) * stride);
        E.peak = memory.take<double>(p.V + 1);
        E.dip = memory.take<double>(p.V + 1);
        for (int64_t v = 0; v <= p.V; ++v) {
            double *row = E.logs + v * stride, top = -INFINITY, dip = 0.0;
            for (int64_t k = 0; k < stride; ++k) {
                row[k] = k < K ? (v < p.V ? double(p.log_probs[k * p.V + v]) : 0.0) : -INFINITY;
                top = larger(row[k], top);
            }
            for (int64_t k = 0; k < K; ++k)
                if (row[k] != -INFINITY) dip = smaller(row[k] - top, dip);
            for (int64_t k = 0; k < stride; k += 4)
                store(E.rows + v * stride + k, exp(load<4>(row + k) - top));
            E.peak[v] = top;
            E.dip[v] = dip;
        }
    }
    return E;
}

// The row of the symbols' tables for every step of a tile.
template <class T>
inline int64_t symbol(const Problem<T>& p, int64_t b, int64_t t) {
    const int64_t at = b * p.T_ + t;
    return t < p.length(b) && (!p.observed || p.observed[at]) ? int64_t(p.symbols[at]) : p.V;
}

// x and m of n steps from t0 on; true if nothing is missing, in which case m is not written.
template <class L, class T>
bool read_frames(const Rows<L, T>& u, int64_t t0, int64_t n) {
    const Problem<T>& p = u.problem;
    const int64_t D = p.D, entries = p.form == Form::quadratic ? D : 1;  // entries of `observed` a step
    bool complete = true;
    for (int w = 0; w < u.count && p.observed; ++w) {
        const int64_t b = u.members[w], here = std::min(n, p.length(b) - t0);
        if (here > 0)
            complete &= !std::memchr(p.observed + (b * p.T_ + t0) * entries, 0, size_t(here * entries));
    }
    if constexpr (L::sequences > 1) {
        const T* rows[W];
        for (int w = 0; w < W; ++w) rows[w] = p.x + (u.member(w) * p.T_ + t0) * D;
        gather_lanes(rows, n * D, u.frames);
        for (int64_t t = std::max(t0, u.shortest); t < t0 + n; ++t)  // padding holds anything
            for (int64_t d = 0; d < D; ++d) {
                auto& x = u.frames[(t - t0) * D + d];
                x = u.inside(t) ? x : typename L::V{};
            }
    } else {
        const T* row = p.x + (u.members[0] * p.T_ + t0) * D;
        for (int64_t i = 0; i < n * D; ++i) u.frames[i] = double(row[i]);
    }
    if (complete) return true;
    double *x = reinterpret_cast<double*>(u.frames), *m = reinterpret_cast<double*>(u.seen);
    for (int w = 0; w < L::sequences; ++w) {
        const bool* observed = p.observed + (u.member(w) * p.T_ + t0) * entries;
        for (int64_t i = 0; i < n * entries; ++i) m[i * L::sequences + w] = observed[i];
        for (int64_t i = 0; i < n * D; ++i)
            if (!observed[i * entries / D]) x[i * L::sequences + w] = 0.0;
    }
    return false;
}

// x_t − μ for row r of the states: n × D vectors.
template <class L, class T>
void deviate(const Rows<L, T>& u, const Emissions& E, int64_t n, int64_t r, typename L::V* out) {
    using V = typename L::V;
    const int64_t D = u.problem.D, stride = E.stride / u.ratio;
    const auto* mean = reinterpret_cast<const typename L::Weight*>(E.mean) + r;
    for (int64_t t = 0; t < n; ++t)
        for (int64_t d = 0; d < D; ++d) out[t * D + d] = V{} + u.frames[t * D + d] - mean[d * stride];
}

// |L⁻¹ d_t|² / 2 of G steps at once: a weight is loaded once for all of them, and their sums hide each other's latency.
template <int G, class Weight, class V>
inline void distances(const Weight* factor, int64_t stride, int64_t D, const V* d, V (&out)[G]) {
    for (int g = 0; g < G; ++g) out[g] = V{};
    for (int64_t i = 0; i < D; ++i) {
        V z[G] = {};
        for (int64_t j = 0; j <= i; ++j, factor += stride)
            for (int g = 0; g < G; ++g) z[g] += d[g * D + j] * *factor;
        for (int g = 0; g < G; ++g) out[g] += z[g] * z[g];
    }
}

template <class L, class T>
void whitened_logs(const Rows<L, T>& u, const Emissions& E, int64_t t0, int64_t n, typename L::V* out) {
    using V = typename L::V;
    using Weight = typename L::Weight;
    const int64_t R = u.R, D = u.problem.D, stride = E.stride / u.ratio;
    const bool complete = read_frames(u, t0, n);
    V* d = u.deviations;
    for (int64_t r = 0; r < R; ++r) {
        const Weight* factor = reinterpret_cast<const Weight*>(E.factor) + r;
        const V peak = V{} + reinterpret_cast<const Weight*>(E.complete)[r];
        deviate(u, E, n, r, d);
        const auto steps = [&](auto group, int64_t t) {
            V half[group];
            distances(factor, stride, D, d + t * D, half);
            for (int g = 0; g < group; ++g) out[(t + g) * R + r] = peak - half[g];
        };
        int64_t t = 0;
        for (; t + 8 <= n; t += 8) steps(std::integral_constant<int, 8>(), t);
        for (; t < n; ++t) steps(std::integral_constant<int, 1>(), t);
    }
    if (complete) return;
    for (int64_t t = 0; t < n; ++t)  // a frame that was not observed says nothing; padding states stay −∞
        for (int64_t r = 0; r < R; ++r) {
            V& l = out[t * R + r];
            l = (V{} + u.seen[t] == 0.0) & (l > -INFINITY) ? V{} : l;
        }
}

// l_t(k) of n steps from t0 on: n × R vectors; padding states are −∞, padding steps anything.
template <class L, class T>
void read_logs(const Rows<L, T>& u, const Emissions& E, int64_t t0, int64_t n, typename L::V* out) {
    using V = typename L::V;
    using Weight = typename L::Weight;
    const Problem<T>& p = u.problem;
    const int64_t R = u.R, D = p.D, stride = E.stride / u.ratio;
    const auto as_weights = [](const double* table) { return reinterpret_cast<const Weight*>(table); };
    if (p.form == Form::dense) {
        u.read(p.emission + t0 * p.K, p.T_ * p.K, n, out, -INFINITY);
    } else if (p.form == Form::whitened) {
        whitened_logs(u, E, t0, n, out);
    } else if (p.form == Form::symbols) {
        for (int64_t t = 0; t < n; ++t) read_rows(u, E, E.logs, t0 + t, out + t * R);
    } else {
        const bool complete = read_frames(u, t0, n);
        const Weight *mean = as_weights(E.mean), *scale = as_weights(E.scale);
        const Weight *entry = as_weights(E.entry), *start = as_weights(complete ? E.complete : E.none);
        in_blocks(R, [&](auto block, int64_t first) {
            for (int64_t t = 0; t < n; ++t) {
                const auto *x = u.frames + t * D, *m = u.seen + t * D;
                V sums[block];
                for (int b = 0; b < block; ++b) sums[b] = V{} + start[first + b];
                for (int64_t d = 0; d < D; ++d)
                    for (int b = 0; b < block; ++b) {
                        const int64_t i = d * stride + first + b;
                        const V z = (x[d] - mean[i]) * scale[i];
                        if (complete) sums[b] -= z * z;
                        else sums[b] += (entry[i] - z * z) * m[d];
                    }
                for (int b = 0; b < block; ++b) out[t * R + first + b] = sums[b];
            }
        });
    }
}

// Row x_t of one of the symbols' tables.
template <class L, class T>
inline void read_rows(const Rows<L, T>& u, const Emissions& E, const double* table, int64_t t,
                      typename L::V* out) {
    using V = typename L::V;
    if constexpr (L::sequences > 1) {
        const double* rows[W];
        for (int w = 0; w < W; ++w) rows[w] = table + symbol(u.problem, u.member(w), t) * E.stride;
        for (int64_t k = 0; k < u.K; k += W) {  // rows are padded to whole vectors
            V block[W];
            for (int w = 0; w < W; ++w) block[w] = load<W>(rows[w] + k);
            transpose(block);
            for (int64_t i = 0; i < std::min<int64_t>(W, u.K - k); ++i) out[k + i] = block[i];
        }
    } else {
        constexpr int N = sizeof(V) / sizeof(double);
        const double* row = table + symbol(u.problem, u.members[0], t) * E.stride;
        for (int64_t r = 0; r < u.R; ++r) out[r] = load<N>(row + r * N);
    }
}

// e_t(k) = exp(l_t(k) − peak_t), peak_t = max_k l_t(k), of the steps t0 to t1 − 1.  Returns Σ_t peak_t; dip becomes
// the smallest finite l_t(k) − peak_t.
template <class L, class T>
typename L::Scalar read_emissions(const Rows<L, T>& u, const Emissions& E, int64_t t0, int64_t t1,
                                  typename L::V* e, typename L::Scalar* peak, typename L::Scalar& dip) {
    using V = typename L::V;
    using Scalar = typename L::Scalar;
    Scalar peaks{};
    const int64_t R = u.R;
    if (u.problem.form == Form::symbols) {
        dip = Scalar{};
        for (int64_t t = t0; t < t1; ++t) {
            Scalar top, low;
            for (int w = 0; w < L::sequences; ++w) {
                const int64_t v = symbol(u.problem, u.member(w), t);
                u.number(top, w) = E.peak[v];
                u.number(low, w) = E.dip[v];
            }
            read_rows(u, E, E.rows, t, e + t * R);
            dip = smaller(low, dip);
            peak[t] = top;
            peaks += top;
        }
        return peaks;
    }
    read_logs(u, E, t0, t1 - t0, e + t0 * R);
    V lowest{};
    for (int64_t t = t0; t < t1; ++t) {
        V* x = e + t * R;
        V top = x[0];
        for (int64_t r = 1; r < R; ++r) top = larger(x[r], top);
        Scalar here = L::top(top);
        if (t >= u.shortest) {  // padding: emission 1, whatever is stored there
            const auto inside = u.inside(t);
            here = select(inside, here, Scalar{});
            for (int64_t r = 0; r < R; ++r) x[r] = inside ? x[r] : V{};
        }
        for (int64_t r = 0; r < R; ++r) {
            const V d = x[r] - here;
            lowest = smaller(d > -INFINITY ? d : V{}, lowest);
            x[r] = exp(d);
        }
        peak[t] = here;
        peaks += here;
    }
    dip = L::bottom(lowest);
    return peaks;
}
