// The most probable path:  m_t(k) = l_t(k) + max_j ( m_{t-1}(j) + log A_jk ) − c_t,  c_t = max_k of the rest.
//
// All arithmetic is the reference's, in the potentials' own type and order, so that ties fall alike:
// the first of equal maxima wins.

template <class V>
inline V finite_part(V x) { return x == -INFINITY ? V{} : x; }

// W sequences at a time, a lane each; K ≤ 256, so that a back-pointer is a byte.
template <class T>
void viterbi_lanes(const Problem<T>& p, const int64_t* members, int count, const Decoded<T>& out,
                   Workspace& memory) {
    using V = Vector<T, W>;
    using Index = MaskOf<V>;
    using Byte = Vector<uint8_t, W>;
    const int64_t K = p.K, steps = p.length(members[0]);
    V *l = memory.take<V>(tile * K), *m = memory.take<V>(2 * K), *before = m + K;
    Byte* arrived = memory.take<Byte>(steps * K);  // the best predecessor
    LongSum<Doubles<W>> score;
    const T *emission[W], *initial[W];
    int64_t length[W], state[W];
    for (int w = 0; w < W; ++w) {
        const int64_t b = members[w < count ? w : count - 1];
        emission[w] = p.emission + b * p.T_ * K;
        initial[w] = p.initial + b * K;
        length[w] = p.length(b);
    }
    for (int64_t t = 0; t < steps; ++t) {
        if (t % tile == 0) {
            const T* rows[W];
            for (int w = 0; w < W; ++w) rows[w] = emission[w] + t * K;
            gather_lanes(rows, std::min(tile, steps - t) * K, l);
        }
        const V* here = l + t % tile * K;
        V c = V{} - T(INFINITY);
        std::swap(m, before);
        if (t == 0) {
            gather_lanes(initial, K, m);
            for (int64_t k = 0; k < K; ++k) m[k] += here[k], c = larger(m[k], c);
        } else {
            in_blocks(K, [&](auto block, int64_t first) {
                V best[block];
                Index from[block];
                for (int i = 0; i < block; ++i) {
                    best[i] = before[0] + p.transition[first + i];
                    from[i] = Index{};
                }
                for (int64_t j = 1; j < K; ++j)
                    for (int i = 0; i < block; ++i) {
                        const V arrive = before[j] + p.transition[j * K + first + i];
                        const Index better = arrive > best[i];
                        best[i] = better ? arrive : best[i];
                        from[i] = better ? Index{} + typename std::decay<decltype(from[0][0])>::type(j) : from[i];
                    }
                for (int i = 0; i < block; ++i) {
                    m[first + i] = best[i] + here[first + i];
                    c = larger(m[first + i], c);
                    arrived[t * K + first + i] = __builtin_convertvector(from[i], Byte);
                }
            });
        }
        for (int64_t k = 0; k < K; ++k) m[k] -= finite_part(c);
        Doubles<W> step = __builtin_convertvector(c, Doubles<W>);
        for (int w = 0; w < W; ++w) {
            if (t >= length[w]) step[w] = 0.0;
            if (t == length[w] - 1) {
                state[w] = 0;
                for (int64_t k = 1; k < K; ++k)
                    if (m[k][w] > m[state[w]][w]) state[w] = k;
            }
        }
        score.add(step);
    }
    for (int64_t t = steps - 1; t >= 0; --t)
        for (int w = 0; w < count; ++w) {
            if (t >= length[w]) continue;
            out.states[members[w] * p.T_ + t] = state[w];
            if (t) state[w] = arrived[t * K + state[w]][w];
        }
    for (int w = 0; w < count; ++w)
        out.score[members[w]] =
            T(score.high[w] == -INFINITY ? -INFINITY : score.high[w] + score.low[w]);
}

// One sequence, the states across a vector.  All messages are kept instead of back-pointers: the way back
// needs one maximum over K a step, the way forth then no indices.
template <class T>
void viterbi_wide(const Problem<T>& p, int64_t sequence, const Decoded<T>& out, Workspace& memory) {
    constexpr int N = 32 / sizeof(T) > W ? W : 32 / sizeof(T);
    using V = Vector<T, N>;
    const int64_t K = p.K, R = (K + N - 1) / N, steps = p.length(sequence);
    const T* emission = p.emission + sequence * p.T_ * K;
    V *A = memory.take<V>(K * R), *messages = memory.take<V>(steps * R), *l = memory.take<V>(R);
    const V none = V{} - T(INFINITY);
    auto pad = [&](const T* from, int64_t n, V* to) {
        T* row = reinterpret_cast<T*>(to);
        for (int64_t i = 0; i < n; ++i, row += R * N, from += K) {
            std::memcpy(row, from, K * sizeof(T));
            std::fill(row + K, row + R * N, T(-INFINITY));
        }
    };
    if (!p.varies_in_time()) pad(p.log_transition(sequence, 1), K, A);
    LongSum<double> score;
    for (int64_t t = 0; t < steps; ++t) {
        V* m = messages + t * R;
        const T* before = reinterpret_cast<const T*>(m - R);
        if (t && p.varies_in_time()) pad(p.log_transition(sequence, t), K, A);
        pad(emission + t * K, 1, l);
        V top = none;
        if (t == 0) {
            pad(p.initial + sequence * K, 1, m);
            for (int64_t r = 0; r < R; ++r) m[r] += l[r], top = larger(m[r], top);
        } else {
            in_blocks(R, [&](auto block, int64_t first) {
                V best[block];
                for (int i = 0; i < block; ++i) best[i] = none;
                for (int64_t j = 0; j < K; ++j)
                    for (int i = 0; i < block; ++i)
                        best[i] = larger(A[j * R + first + i] + before[j], best[i]);
                for (int i = 0; i < block; ++i) {
                    m[first + i] = best[i] + l[first + i];
                    top = larger(m[first + i], top);
                }
            });
        }
        const T c = reduce<Most, N, T>(top);
        for (int64_t r = 0; r < R; ++r) m[r] -= c == -INFINITY ? T(0) : c;
        score.add(c);
    }
    int64_t state = 0;
    int64_t* states = out.states + sequence * p.T_;
    for (int64_t t = steps - 1; t >= 0; --t) {
        const T* m = reinterpret_cast<const T*>(messages + t * R);
        const T* column = t + 1 < steps ? p.log_transition(sequence, t + 1) + state : nullptr;
        T best = -INFINITY;
        int64_t first = 0;
        for (int64_t j = 0; j < K; ++j) {
            const T x = column ? m[j] + column[j * K] : m[j];
            first = x > best ? j : first;
            best = larger(x, best);
        }
        states[t] = state = first;
    }
    out.score[sequence] = T(score.high == -INFINITY ? -INFINITY : score.high + score.low);
}
