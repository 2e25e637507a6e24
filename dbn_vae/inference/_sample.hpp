// Paths from p(s_{1:T} | x_{1:T}), drawn from the end:  p(s_{t-1} = i | s_t = k, x) ∝ a_{t-1}(i) A_ik.

// The first state whose cumulated weight exceeds the uniform number's share of the total.
inline int64_t draw(const double* weight, int64_t K, double total, double uniform) {
    const double threshold = uniform * total;
    double cumulated = 0.0;
    int64_t state = 0;
    for (int64_t k = 0; k < K; ++k) {
        if (weight[k] > 0.0) state = k;  // rounding must not end on a state of probability 0
        cumulated += weight[k];
        if (cumulated > threshold) break;
    }
    return state;
}

// False if the scaled messages were too small to draw from.
template <class L, class T>
bool sample(Unit<L, T>& u, const Transitions& A, const Sampled& out, Workspace& memory) {
    const Problem<T>& p = u.problem;
    const double* a = u.message(u.a);
    const int64_t pitch = u.R * int64_t(sizeof(typename L::V) / sizeof(double));
    double* weight = memory.take<double>(u.K);
    for (int64_t s = 0; s < out.draws; ++s) {
        const int64_t at = (s * p.B + u.members[0]) * p.T_;
        int64_t state = 0;
        for (int64_t t = u.steps - 1; t >= 0; --t) {
            double total = 0.0;
            for (int64_t k = 0; k < u.K; ++k) {
                const double arrive = t + 1 < u.steps ? A.by_column[state * A.stride + k] : 1.0;
                total += weight[k] = a[t * pitch + k] * arrive;
            }
            if (!(total > negligible_above)) return false;
            out.states[at + t] = state = draw(weight, u.K, total, out.uniform[at + t]);
        }
    }
    return true;
}

template <class T>
void sample(LogChain<T>& u, const Sampled& out, Workspace& memory) {
    using V = Doubles<W>;
    const Problem<T>& p = u.problem;
    V* weight = memory.take<V>(u.R);
    double* logit = reinterpret_cast<double*>(weight);
    for (int64_t s = 0; s < out.draws; ++s) {
        const int64_t at = (s * p.B + u.sequence) * p.T_;
        int64_t state = 0;
        for (int64_t t = u.steps - 1; t >= 0; --t) {
            const bool last = t + 1 == u.steps;
            const T* column = last ? nullptr : p.log_transition(u.sequence, t + 1) + state;
            std::copy(u.a + t * u.R, u.a + (t + 1) * u.R, weight);
            for (int64_t k = 0; k < u.K && !last; ++k) logit[k] += double(column[k * u.K]);
            const double total = finite(log_sum(weight, u.R));
            for (int64_t r = 0; r < u.R; ++r) weight[r] = exp(weight[r] - total);
            V all{};
            for (int64_t r = 0; r < u.R; ++r) all += weight[r];
            out.states[at + t] = state = draw(logit, u.K, sum(all), out.uniform[at + t]);
        }
    }
}
