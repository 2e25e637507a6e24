// The same chain in log space: slower, and right whatever the numbers are.
//
//     a_t(k) = l_t(k) + LSE_j( a_{t-1}(j) + log A_jk ) − c_t,    c_t such that LSE_k a_t(k) = 0
//     b_{t-1}(i) = LSE_k( log A_ik + l_t(k) + b_t(k) − c_t )
//
// Each log-sum-exp takes the maximum of its own target out, so nothing underflows that counts; terms e^-50
// below that maximum are below rounding and are skipped.  Transitions that vary in time come here too:
// they need K² exponentials a step in any arithmetic.

template <class T>
struct LogChain {
    using V = Doubles<W>;
    const Problem<T>& problem;
    int64_t sequence, K, R, steps;
    V *l, *a;           // steps × R; padding states are −∞
    V *A, *A_column;    // log A into the step that was last asked for, and transposed: K × R
    double* c;
    double log_z;

    LogChain(const Problem<T>& problem, const Emissions& E, int64_t sequence, Workspace& memory)
        : problem(problem), sequence(sequence), K(problem.K), R((K + W - 1) / W),
          steps(problem.length(sequence)) {
        l = memory.take<V>(steps * R);
        a = memory.take<V>(steps * R);
        A = memory.take<V>(K * R);
        A_column = memory.take<V>(K * R);
        c = memory.take<double>(steps);
        const Rows<Wide<W>, T> rows(problem, &this->sequence, 1, memory);
        for (int64_t t = 0; t < steps; t += tile)
            read_logs(rows, E, t, std::min(tile, steps - t), l + t * R);
        if (!problem.varies_in_time()) read_transition(1);
    }

    void copy(const T* from, int64_t n, V* to) const {
        double* out = reinterpret_cast<double*>(to);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t k = 0; k < R * W; ++k)
                out[i * R * W + k] = k < K ? double(from[i * K + k]) : -INFINITY;
    }

    void read_transition(int64_t t) {
        copy(problem.log_transition(sequence, t), K, A);
        const double* rows = reinterpret_cast<double*>(A);
        double* columns = reinterpret_cast<double*>(A_column);
        for (int64_t k = 0; k < K; ++k)
            for (int64_t i = 0; i < R * W; ++i)
                columns[k * R * W + i] = i < K ? rows[i * R * W + k] : -INFINITY;
    }
};

inline double finite(double x) { return x == -INFINITY ? 0.0 : x; }

// LSE over all entries of a message.
template <class V>
double log_sum(const V* x, int64_t R) {
    V top = x[0], total{};
    for (int64_t r = 1; r < R; ++r) top = larger(x[r], top);
    const double shift = finite(highest(top));
    for (int64_t r = 0; r < R; ++r) total += exp(x[r] - shift);
    const double s = sum(total);
    return s == 0.0 ? -INFINITY : std::log(s) + shift;
}

// out(r) = LSE_j( x_j + M_jr ) for every target r.
template <class V>
void log_product(const V* x, const V* matrix, int64_t K, int64_t R, V* out) {
    const double* message = reinterpret_cast<const double*>(x);
    for (int64_t r = 0; r < R; ++r) {
        V top = V{} - INFINITY, total{};
        for (int64_t j = 0; j < K; ++j) top = larger(matrix[j * R + r] + message[j], top);
        const V shift = top > -INFINITY ? top : V{};
        for (int64_t j = 0; j < K; ++j) {
            if (message[j] == -INFINITY) continue;
            const V term = matrix[j * R + r] + message[j] - shift;
            if (any(~(term < -50.0))) total += exp(term);
        }
        out[r] = total == 0.0 ? V{} - INFINITY : log(total) + shift;
    }
}

template <class T>
void forward(LogChain<T>& u, Workspace& memory) {
    using V = Doubles<W>;
    LongSum<double> z;
    V* predicted = memory.take<V>(u.R);
    for (int64_t t = 0; t < u.steps; ++t) {
        V* a = u.a + t * u.R;
        if (t == 0) {
            u.copy(u.problem.initial + u.sequence * u.K, 1, predicted);
        } else {
            if (u.problem.varies_in_time()) u.read_transition(t);
            log_product(a - u.R, u.A, u.K, u.R, predicted);
        }
        for (int64_t r = 0; r < u.R; ++r) a[r] = predicted[r] + u.l[t * u.R + r];
        u.c[t] = log_sum(a, u.R);
        for (int64_t r = 0; r < u.R; ++r) a[r] -= finite(u.c[t]);
        z.add(u.c[t]);
    }
    u.log_z = z.high == -INFINITY ? z.high : z.high + z.low;
}

// each(t, gamma_t) at every step, and moves(t, i, xi_t(i, ·)) at every step into which transitions vary;
// where they do not, once for every i with the sum over all steps.
template <class T, class Each, class Moves>
void backward(LogChain<T>& u, Workspace& memory, Each each, Moves moves) {
    using V = Doubles<W>;
    const int64_t K = u.K, R = u.R;
    const Problem<T>& p = u.problem;
    V *b = memory.take<V>(R), *future = memory.take<V>(R), *pairs = memory.take<V>(K * R);
    std::fill(b, b + R, V{});
    std::fill(pairs, pairs + K * R, V{});
    V* joint = memory.take<V>(R);
    for (int64_t t = u.steps - 1; t >= 0; --t) {
        const V* a = u.a + t * R;
        for (int64_t r = 0; r < R; ++r) joint[r] = a[r] + b[r];
        const double evidence = finite(log_sum(joint, R));  // 0 but for rounding
        for (int64_t r = 0; r < R; ++r) joint[r] = exp(joint[r] - evidence);
        each(t, reinterpret_cast<const double*>(joint));
        if (t == 0) break;
        if (p.varies_in_time()) u.read_transition(t);
        for (int64_t r = 0; r < R; ++r) future[r] = u.l[t * R + r] + b[r] - finite(u.c[t]);
        for (int64_t i = 0; i < K; ++i) {
            const double from = reinterpret_cast<const double*>(a - R)[i] - evidence;
            for (int64_t r = 0; r < R; ++r) {
                const V term = u.A[i * R + r] + future[r] + from;
                if (any(~(term < -708.0))) pairs[i * R + r] += exp(term);
            }
            if (p.varies_in_time()) {
                moves(t, i, reinterpret_cast<const double*>(pairs + i * R));
                std::fill(pairs + i * R, pairs + (i + 1) * R, V{});
            }
        }
        log_product(future, u.A_column, K, R, b);
    }
    if (!p.varies_in_time())
        for (int64_t i = 0; i < K; ++i) moves(1, i, reinterpret_cast<const double*>(pairs + i * R));
}

template <class T>
void write_filtered(const LogChain<T>& u, const Filtered<T>& out) {
    const Problem<T>& p = u.problem;
    for (int64_t t = 0; t < u.steps; ++t) {
        for (int64_t r = 0; r < u.R; ++r) u.l[r] = exp(u.a[t * u.R + r]);
        const double* probs = reinterpret_cast<double*>(u.l);
        for (int64_t k = 0; k < u.K; ++k)
            out.probs[(u.sequence * p.T_ + t) * u.K + k] = T(probs[k]);
        out.log_normalizer[u.sequence * p.T_ + t] = T(u.c[t]);
    }
}
