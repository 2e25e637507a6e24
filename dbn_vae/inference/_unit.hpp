// One unit of work: the verb that was asked for, on the kernel that suits it.

template <class T>
void exactly(const Job<T>& job, int64_t sequence, double* totals, Workspace& memory) {
    const Problem<T>& p = job.problem;
    const int64_t K = p.K;
    LogChain<T> u(p, job.emissions, sequence, memory);
    forward(u, memory);
    const auto put = [K](const double* from, T* to) {
        for (int64_t k = 0; k < K; ++k) to[k] = T(from[k]);
    };
    if (job.verb == Verb::filter) {
        if (job.filtered.probs) write_filtered(u, job.filtered);
        job.filtered.log_z[sequence] = T(u.log_z);
    } else if (job.verb == Verb::smooth) {
        const Smoothed<T>& out = job.smoothed;
        T *gamma = out.gamma + sequence * p.T_ * K, *xi = out.xi + sequence * p.pairs_size();
        out.log_z[sequence] = T(u.log_z);
        if (u.log_z == -INFINITY) {  // no path is possible: there is no posterior
            std::fill_n(gamma, p.T_ * K, T(0));
            std::fill_n(xi, p.pairs_size(), T(0));
        } else {
            backward(u, memory, [&](int64_t t, const double* row) { put(row, gamma + t * K); },
                     [&](int64_t t, int64_t i, const double* row) {
                         put(row, xi + ((p.varies_in_time() ? (t - 1) * K : 0) + i) * K);
                     });
        }
    } else if (job.verb == Verb::expect) {
        job.expected.log_z[sequence] = T(u.log_z);
        const double weight = double(job.expected.weights[sequence]);
        if (weight == 0.0 || u.log_z == -INFINITY) return;
        const Totals<T> to(p, totals);
        backward(u, memory, [&](int64_t t, const double* row) {
            add_step(p, sequence, t, row, weight, to.statistics);
            for (int64_t k = 0; k < K && t == 0; ++k) to.first[k] += weight * row[k];
        }, [&](int64_t, int64_t i, const double* row) {
            for (int64_t k = 0; k < K; ++k) to.pairs[i * K + k] += weight * row[k];
        });
    } else {
        sample(u, job.sampled, memory);
    }
}

// The backward pass of Verb::expect, with what gathers the emissions' sums.
template <class Sums, class L, class T>
void expect(Unit<L, T>& u, const Transitions& A, const Job<T>& job, double* totals, Workspace& memory) {
    using V = typename L::V;
    const Totals<T> to(u.problem, totals);
    V* first = memory.take<V>(u.R);
    Sums sums(u, memory);
    const V* pairs = backward(u, A, memory, [&](int64_t t0, int64_t t1, const V* gamma) {
        if (t0 == 0) std::copy(gamma, gamma + u.R, first);
        sums.add(u, job.emissions, t0, t1 - t0, gamma);
    });
    typename L::Scalar weight{};
    for (int w = 0; w < u.count; ++w)
        if (!reinterpret_cast<const int64_t*>(&u.bad)[w])
            u.number(weight, w) = double(job.expected.weights[u.members[w]]);
    if (u.problem.pieces) u.put(first, u.problem.pieces->first);
    else add_rows(u, first, 1, weight, to.first);
    add_rows(u, pairs, u.K, weight, to.pairs);
    sums.add_to(u, weight, to.statistics);
}

template <class L, class T>
void expect(Unit<L, T>& u, const Transitions& A, const Job<T>& job, double* totals, Workspace& memory) {
    const Form form = u.problem.form;
    if (form == Form::quadratic) expect<Moments<L, T>>(u, A, job, totals, memory);
    else if (form == Form::whitened) expect<Scatters<L, T>>(u, A, job, totals, memory);
    else expect<Counts<L, T>>(u, A, job, totals, memory);
}

template <class L, class T>
void scaled(const Job<T>& job, const int64_t* members, int count, double* totals, Workspace& memory) {
    const Problem<T>& p = job.problem;
    const Transitions A = p.kind == Kind::shared
                              ? job.transitions
                              : prepare(p.log_transition(members[0], 1), p.K, job.stride, memory);
    const bool keep = job.verb != Verb::filter;
    Unit<L, T> u(p, members, count, keep, memory);
    if (job.verb == Verb::recede) {
        u.put(recede(u, A, job.emissions, memory), p.pieces->back);
    } else if (job.verb == Verb::filter && job.filtered.probs) {
        double* rest = memory.take<double>((tile + 2) * W);
        double* normalizer = memory.take<double>((tile + 2) * W);
        forward(u, A, job.emissions, keep, [&](int64_t t0, int64_t t1) {
            write_filtered(u, A, t0, t1, job.filtered, rest, normalizer);
        });
    } else {
        forward(u, A, job.emissions, keep, [](int64_t, int64_t) {});
    }
    if (p.pieces && p.pieces->last) u.put(u.a + (u.steps - 1) * u.R, p.pieces->last);
    T* log_z = job.filtered.log_z;
    if (job.verb == Verb::smooth) {
        const Smoothed<T>& out = job.smoothed;
        const auto* pairs = backward(u, A, memory, [&](int64_t t0, int64_t t1, const auto* gamma) {
            u.write(gamma, t1 - t0, out.gamma + t0 * p.K, p.T_ * p.K);
            if (p.pieces && t0 == 0) u.put(gamma, p.pieces->first);
        });
        if (p.pieces) {
            typename L::Scalar one{};
            for (int w = 0; w < count; ++w) u.number(one, w) = 1.0;
            add_rows(u, pairs, p.K, one, totals);
        } else {
            u.write(pairs, p.K, out.xi, p.K * p.K);
        }
        log_z = out.log_z;
    } else if (job.verb == Verb::expect) {
        expect(u, A, job, totals, memory);
        log_z = job.expected.log_z;
    } else if constexpr (L::sequences == 1) {
        if (job.verb == Verb::sample && !u.bad && !sample(u, A, job.sampled, memory)) u.bad = -1;
    }
    for (int w = 0; w < count; ++w) {
        if (p.pieces) {
            if (reinterpret_cast<const int64_t*>(&u.bad)[w]) *p.pieces->failed = true;
            if (p.pieces->log_z) p.pieces->log_z[members[w]] = u.number(u.log_z, w);
        } else if (reinterpret_cast<const int64_t*>(&u.bad)[w])
            exactly(job, members[w], totals, memory);
        else if (log_z)
            log_z[members[w]] = T(u.number(u.log_z, w));
    }
}

// totals: of the block of sequences that these belong to, for Verb::expect.
template <class T>
void run(const Job<T>& job, const int64_t* members, int count, double* totals, Workspace& memory) {
    const Problem<T>& p = job.problem;
    if (job.verb == Verb::decode) {
        if (p.K > 256)
            viterbi<OnePath<T, W>, uint32_t>(job, members, 1, memory);
        else if (job.lanes)
            viterbi<ManyPaths<T, W>, uint8_t>(job, members, count, memory);
        else if (p.K <= 4)
            viterbi<OnePath<T, 4>, uint8_t>(job, members, 1, memory);
        else
            viterbi<OnePath<T, W>, uint8_t>(job, members, 1, memory);
    } else if (p.varies_in_time()) {
        exactly(job, members[0], totals, memory);
    } else if (job.lanes) {
        scaled<Lanes>(job, members, count, totals, memory);
    } else if (p.K <= 4) {
        scaled<Wide<4>>(job, members, count, totals, memory);
    } else {
        scaled<Wide<W>>(job, members, count, totals, memory);
    }
}
