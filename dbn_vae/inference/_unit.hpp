// One unit of work: the verb that was asked for, on the kernel that suits it.

template <class T>
void exactly(const Job<T>& job, int64_t sequence, Workspace& memory) {
    const Problem<T>& p = job.problem;
    LogChain<T> u(p, sequence, memory);
    forward(u, memory);
    if (job.verb == Verb::filter) {
        write_filtered(u, job.filtered);
        job.filtered.log_z[sequence] = T(u.log_z);
    } else if (job.verb == Verb::smooth) {
        job.smoothed.log_z[sequence] = T(u.log_z);
        if (u.log_z == -INFINITY) {  // no path is possible: there is no posterior
            std::fill_n(job.smoothed.gamma + sequence * p.T_ * p.K, p.T_ * p.K, T(0));
            std::fill_n(job.smoothed.xi + sequence * p.pairs_size(), p.pairs_size(), T(0));
        } else {
            backward(u, job.smoothed, memory);
        }
    } else {
        sample(u, job.sampled, memory);
    }
}

template <class L, class T>
void scaled(const Job<T>& job, const int64_t* members, int count, Workspace& memory) {
    const Problem<T>& p = job.problem;
    const Transitions A = p.kind == Kind::shared
                              ? job.transitions
                              : prepare(p.log_transition(members[0], 1), p.K, job.stride, memory);
    const bool keep = job.verb != Verb::filter;
    Unit<L, T> u(p, members, count, keep, memory);
    if (!keep) {
        double* rest = memory.take<double>((tile + 2) * W);
        double* normalizer = memory.take<double>((tile + 2) * W);
        forward(u, A, keep, [&](int64_t t0, int64_t t1) {
            write_filtered(u, A, t0, t1, job.filtered, rest, normalizer);
        });
    } else {
        forward(u, A, keep, [](int64_t, int64_t) {});
    }
    if (job.verb == Verb::smooth) {
        backward(u, A, job.smoothed, memory);
    } else if constexpr (L::sequences == 1) {
        if (job.verb == Verb::sample && !u.bad && !sample(u, A, job.sampled, memory)) u.bad = -1;
    }
    for (int w = 0; w < count; ++w) {
        if (reinterpret_cast<const int64_t*>(&u.bad)[w])
            exactly(job, members[w], memory);
        else if (job.verb == Verb::filter)
            job.filtered.log_z[members[w]] = T(u.number(u.log_z, w));
        else if (job.verb == Verb::smooth)
            job.smoothed.log_z[members[w]] = T(u.number(u.log_z, w));
    }
}

template <class T>
void run(const Job<T>& job, const int64_t* members, int count, Workspace& memory) {
    const Problem<T>& p = job.problem;
    if (job.verb == Verb::decode) {
        if (p.K > 256)
            viterbi<OnePath<T, W>, uint32_t>(p, members, 1, job.decoded, memory);
        else if (job.lanes)
            viterbi<ManyPaths<T, W>, uint8_t>(p, members, count, job.decoded, memory);
        else if (p.K <= 4)
            viterbi<OnePath<T, 4>, uint8_t>(p, members, 1, job.decoded, memory);
        else
            viterbi<OnePath<T, W>, uint8_t>(p, members, 1, job.decoded, memory);
    } else if (p.varies_in_time()) {
        exactly(job, members[0], memory);
    } else if (job.lanes) {
        scaled<Lanes>(job, members, count, memory);
    } else if (p.K <= 4) {
        scaled<Wide<4>>(job, members, count, memory);
    } else {
        scaled<Wide<W>>(job, members, count, memory);
    }
}

template <class T>
Kernels<T> kernels() { return {W, prepare<T>, run<T>}; }
