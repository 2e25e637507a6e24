// How sequences lie in vectors, and how their rows get there.
//
// Lanes: W sequences at a time, one in each lane of a vector, a row of memory is a state.  Wide: one
// sequence, a row is N states.  In both, a matrix product is "message × weight": a vector times a number in
// the first, a number times a vector in the second.

constexpr int64_t tile = 32;  // steps between passes over memory

struct Lanes {
    static constexpr int sequences = W;
    using V = Doubles<W>;
    using Scalar = V;      // one number a sequence
    using Flag = MaskOf<V>;  // one truth a sequence
    using Message = V;
    using Weight = double;
    static int64_t rows(int64_t K) { return K; }
    static V total(V v) { return v; }
    static V top(V v) { return v; }
    static V bottom(V v) { return v; }
    static Flag fold(Flag m) { return m; }
};

template <int N>
struct Wide {
    static constexpr int sequences = 1;
    using V = Doubles<N>;
    using Scalar = double;
    using Flag = int64_t;
    using Message = double;
    using Weight = V;
    static int64_t rows(int64_t K) { return (K + N - 1) / N; }
    static double total(V v) { return sum(v); }
    static double top(V v) { return highest(v); }
    static double bottom(V v) { return lowest(v); }
    static Flag fold(MaskOf<V> m) { return -int64_t(any(m)); }
};

// The sequences of one unit of work, and their rows in the tables of the problem.
template <class L, class T>
struct Rows {
    using V = typename L::V;
    using Scalar = typename L::Scalar;
    using Flag = typename L::Flag;
    using Message = typename L::Message;
    using Weight = typename L::Weight;
    static constexpr int64_t ratio = int64_t(sizeof(Weight) / sizeof(double));  // numbers in a weight

    const Problem<T>& problem;
    const int64_t* members;  // sequence numbers
    int count;               // of them; missing lanes repeat the last one
    int64_t K, R, steps, shortest;
    Scalar length;           // as a double: lanes compare it with t
    T* nowhere = nullptr;    // where missing lanes write
    Message *frames = nullptr, *seen = nullptr;  // tile × D: entries x, and 1 where they were observed (whitened: tile)
    V* deviations = nullptr;  // whitened: x − μ of one row of states, twice

    Rows(const Problem<T>& problem, const int64_t* members, int count, Workspace& memory)
        : problem(problem), members(members), count(count), K(problem.K), R(L::rows(problem.K)) {
        steps = problem.length(members[0]);
        shortest = problem.length(members[count - 1]);  // sequences come sorted, longest first
        if (count < L::sequences) nowhere = memory.take<T>(std::max(tile, K) * K);
        for (int w = 0; w < L::sequences; ++w) number(length, w) = double(problem.length(member(w)));
        if (problem.form == Form::quadratic || problem.form == Form::whitened) {
            frames = memory.take<Message>(tile * problem.D);
            seen = memory.take<Message>(tile * problem.D);
            deviations = memory.take<V>(2 * tile * problem.D);
        }
    }

    int64_t member(int w) const { return members[w < count ? w : count - 1]; }
    static double& number(double& x, int) { return x; }
    template <class S>
    static auto& number(S& x, int w) { return reinterpret_cast<double*>(&x)[w]; }
    Flag inside(int64_t t) const {
        if constexpr (L::sequences == 1) return -1;  // one sequence ends where its work ends
        else return less(Scalar{} + double(t), length);
    }
    const Message* message(const V* rows) const { return reinterpret_cast<const Message*>(rows); }

    // n rows of K numbers a sequence into n × R vectors; padding states get `fill`.
    template <class U>
    void read(const U* base, int64_t pitch, int64_t n, V* out, double fill) const {
        if constexpr (L::sequences > 1) {
            const U* rows[W];
            for (int w = 0; w < W; ++w) rows[w] = base + member(w) * pitch;
            gather_lanes(rows, n * K, out);
        } else {
            constexpr int N = sizeof(V) / sizeof(double);
            const U* row = base + members[0] * pitch;
            double* to = reinterpret_cast<double*>(out);
            if (K == R * N)
                for (int64_t i = 0; i < n * R; ++i) out[i] = load<N>(row + i * N);
            else for (int64_t i = 0; i < n; ++i, row += K, to += R * N) {
                int64_t k = 0;
                for (; k + N <= K; k += N) store(to + k, load<N>(row + k));
                for (; k < R * N; ++k) to[k] = k < K ? double(row[k]) : fill;
            }
        }
    }

    // One row of a sequence's own table of K numbers.
    void put(const V* in, double* base) const {
        const double* from = reinterpret_cast<const double*>(in);
        for (int w = 0; w < count; ++w)
            for (int64_t k = 0; k < K; ++k) base[members[w] * K + k] = from[k * L::sequences + w];
    }

    // The way back.
    void write(const V* in, int64_t n, T* base, int64_t pitch) const {
        if constexpr (L::sequences > 1) {
            T* rows[W];
            for (int w = 0; w < W; ++w) rows[w] = w < count ? base + members[w] * pitch : nowhere;
            scatter_lanes(in, n * K, rows);
        } else {
            constexpr int N = sizeof(V) / sizeof(double);
            T* row = base + members[0] * pitch;
            const double* from = reinterpret_cast<const double*>(in);
            if (K == R * N)
                for (int64_t i = 0; i < n * R; ++i) store(row + i * N, in[i]);
            else for (int64_t i = 0; i < n; ++i, row += K, from += R * N) {
                int64_t k = 0;
                for (; k + N <= K; k += N) store(row + k, load<N>(from + k));
                for (; k < K; ++k) row[k] = T(from[k]);
            }
        }
    }
};

// f(block size as a constant, first row) over all rows: eight sums at once hide the latency of the multiply-add.
template <class F>
inline void in_blocks(int64_t rows, F f) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) f(std::integral_constant<int, 8>(), r);
    if (rows & 4) f(std::integral_constant<int, 4>(), r), r += 4;
    if (rows & 2) f(std::integral_constant<int, 2>(), r), r += 2;
    if (rows & 1) f(std::integral_constant<int, 1>(), r);
}
