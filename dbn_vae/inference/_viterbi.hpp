// The most probable path:  m_t(k) = l_t(k) + max_j ( m_{t-1}(j) + log A_jk ) − c_t,  c_t = max_k of the rest.
//
// All arithmetic is the reference's, in the potentials' own type and order, so that ties fall alike: the
// first of equal maxima wins.  Lanes or wide as in _forward_backward.hpp.

template <class T, int N>
struct ManyPaths {
    static constexpr int sequences = N;
    using Layout = Lanes;
    using V = Vector<T, N>;
    using Message = V;
    using Weight = T;
    static V top(V v) { return v; }
    static Doubles<N> number(V c) { return __builtin_convertvector(c, Doubles<N>); }
};

template <class T, int N>
struct OnePath {
    static constexpr int sequences = 1;
    using Layout = Wide<N>;
    using V = Vector<T, N>;
    using Message = T;
    using Weight = V;
    static T top(V v) { return reduce<Most, N, T>(v); }
    static double number(T c) { return c; }
};

template <class V>
inline V finite_part(V x) { return x == -INFINITY ? V{} : x; }

// n rows of K numbers, each filled up with −∞ to `pitch` numbers.
template <class T>
void pad(const T* from, int64_t n, int64_t K, int64_t pitch, T* to) {
    for (int64_t i = 0; i < n; ++i, from += K, to += pitch)
        for (int64_t k = 0; k < pitch; ++k) to[k] = k < K ? from[k] : T(-INFINITY);
}

// Pointer: the smallest unsigned type that holds a state.
template <class L, class Pointer, class T>
void viterbi(const Job<T>& job, const int64_t* members, int count, Workspace& memory) {
    const Problem<T>& p = job.problem;
    const Decoded<T>& out = job.decoded;
    using V = typename L::V;
    using Index = MaskOf<V>;
    using Integer = typename std::decay<decltype(Index{}[0])>::type;
    using Weight = typename L::Weight;
    constexpr int N = sizeof(V) / sizeof(T);
    constexpr bool many = L::sequences > 1;
    using Pointers = Vector<Pointer, N>;
    const int64_t K = p.K, R = many ? K : (K + N - 1) / N, steps = p.length(members[0]);

    V *l = memory.take<V>(tile * R), *m = memory.take<V>(2 * R), *before = m + R;
    const Pieces* pieces = p.pieces;
    Pointers* arrived;  // the best predecessor of every state
    if (pieces && pieces->pointers)
        arrived = reinterpret_cast<Pointers*>(pieces->pointers + members[0] * p.T_ * K);
    else
        arrived = memory.take<Pointers>(steps * R);
    const T *emission[L::sequences], *initial[L::sequences];
    int64_t length[L::sequences], state[L::sequences] = {};
    for (int w = 0; w < L::sequences; ++w) {
        const int64_t b = members[w < count ? w : count - 1];
        emission[w] = p.emission + b * p.T_ * K;
        initial[w] = p.initial + b * K;
        length[w] = p.length(b);
    }
    const auto read = [&](const T* (&rows)[L::sequences], int64_t t, int64_t n, V* to) {
        if constexpr (many) {
            const T* from[N];
            for (int w = 0; w < N; ++w) from[w] = rows[w] + t * K;
            gather_lanes(from, n * K, to);
        } else {
            pad(rows[0] + t * K, n, K, R * N, reinterpret_cast<T*>(to));
        }
    };
    const Rows<typename L::Layout, T> rows(p, members, count, memory);
    using Logs = typename L::Layout::V;
    Logs* logs = p.form == Form::dense && !pieces ? nullptr : memory.take<Logs>(tile * R);
    const auto narrow = [logs](int64_t n, V* to) {
        for (int64_t i = 0; i < n; ++i) to[i] = __builtin_convertvector(logs[i], V);
    };
    const auto read_emission = [&](int64_t t, int64_t n) {
        if (p.form == Form::dense) return read(emission, t, n, l);
        read_logs(rows, job.emissions, t, n, logs);
        narrow(n * R, l);
    };
    // Lanes share one table, read as it lies; one path reads its own, padded.
    V* padded = many ? nullptr : memory.take<V>(K * R);
    const auto read_transition = [&](int64_t t) {
        if constexpr (!many)
            pad(p.log_transition(members[0], t), K, K, R * N, reinterpret_cast<T*>(padded));
    };
    if (!p.varies_in_time()) read_transition(1);
    const Weight* A = many ? reinterpret_cast<const Weight*>(p.transition)
                           : reinterpret_cast<const Weight*>(padded);

    LongSum<decltype(L::number(L::top(V{})))> score;
    for (int64_t t = 0; t < steps; ++t) {
        if (t % tile == 0) read_emission(t, std::min(tile, steps - t));
        if (t && p.varies_in_time()) read_transition(t);
        const V* here = l + t % tile * R;
        std::swap(m, before);
        V top = V{} - T(INFINITY);
        if (t == 0) {
            if (pieces) rows.read(pieces->entering, K, 1, logs, -INFINITY), narrow(R, m);
            else read(initial, 0, 1, m);
            for (int64_t r = 0; r < R; ++r) m[r] += here[r], top = larger(m[r], top);
        } else {
            const auto* from = reinterpret_cast<const typename L::Message*>(before);
            in_blocks(R, [&](auto block, int64_t first) {
                V best[block];
                Index origin[block];
                for (int i = 0; i < block; ++i) {
                    best[i] = from[0] + A[first + i];
                    origin[i] = Index{};
                }
                for (int64_t j = 1; j < K; ++j)
                    for (int i = 0; i < block; ++i) {
                        const V arrive = from[j] + A[j * R + first + i];
                        const Index better = arrive > best[i];
                        best[i] = better ? arrive : best[i];
                        origin[i] = better ? Index{} + Integer(j) : origin[i];
                    }
                for (int i = 0; i < block; ++i) {
                    m[first + i] = best[i] + here[first + i];
                    top = larger(m[first + i], top);
                    arrived[t * R + first + i] = __builtin_convertvector(origin[i], Pointers);
                }
            });
        }
        const auto c = L::top(top);
        for (int64_t r = 0; r < R; ++r) m[r] -= finite_part(c);
        auto gained = L::number(c);
        if constexpr (many) {
            const T* numbers = reinterpret_cast<const T*>(m);
            for (int w = 0; w < N; ++w) {
                if (t >= length[w]) gained[w] = 0.0;
                if (t != length[w] - 1) continue;
                for (int64_t k = 1; k < K; ++k)
                    if (numbers[k * N + w] > numbers[state[w] * N + w]) state[w] = k;
                for (int64_t k = 0; pieces && k < K && w < count; ++k)
                    pieces->last[members[w] * K + k] = double(numbers[k * N + w]);
            }
        }
        score.add(gained);
    }
    if constexpr (!many) {
        const T* numbers = reinterpret_cast<const T*>(m);
        for (int64_t k = 1; k < K; ++k)
            if (numbers[k] > numbers[state[0]]) state[0] = k;
    }

    const auto total = [&](int w) {
        const double high = reinterpret_cast<double*>(&score.high)[w];
        return high == -INFINITY ? high : high + reinterpret_cast<double*>(&score.low)[w];
    };
    if (pieces) {  // whose paths depend on the pieces that follow
        for (int w = 0; w < count && pieces->log_z; ++w) pieces->log_z[members[w]] = total(w);
        return;
    }
    const Pointer* pointers = reinterpret_cast<const Pointer*>(arrived);
    for (int64_t t = steps - 1; t >= 0; --t)
        for (int w = 0; w < count; ++w) {
            if (t >= length[w]) continue;
            out.states[members[w] * p.T_ + t] = state[w];
            if (t) state[w] = pointers[t * R * N + (many ? state[w] * N + w : state[w])];
        }
    for (int w = 0; w < count; ++w) out.score[members[w]] = T(total(w));
}
