// Forward, backward and expected transitions in scaled arithmetic.
//
//     a_t(k) = e_t(k) Σ_j a_{t-1}(j) A_jk          e_t(k) = exp(l_t(k) − max_k l_t(k))
//     b_t(i) = Σ_k A_ik e_{t+1}(k) b_{t+1}(k)
//     gamma_t(k) ∝ a_t(k) b_t(k)
//     xi_ij = A_ij Σ_t a_{t-1}(i) u_t(j),   u_t(j) = e_t(j) b_t(j) / normaliser
//
// Messages are rescaled by powers of two, which is exact and needs neither division nor logarithm; the
// exponents are counted, so log Z has one logarithm a sequence.
//
// The recursion is written once for the two layouts of _layout.hpp.
//
// Scaled numbers can underflow.  Nothing is clamped: what could have changed a result is detected, and that
// sequence is done again in log space (_exact.hpp).  The argument, for a forward message of total c ≥ safe:
//   1. While every nonzero predicted sum Σ_j a(j) A_jk, every e and every A is ≥ safe = 1e-100, no product
//      leaves the range of a double, so a zero is a true zero.
//   2. Otherwise (and if a first state is that improbable, as EM makes most of them on a single sequence) mass may have
//      been `lost`, at most 1e-308 a term, which is 1e-208 after rescaling.  It is negligible in a predicted sum of at
//      least negligible_above = 1e-150.  A smaller sum, or a zero after a loss (it might not be one), sends the
//      sequence to log space.
// The same holds backward with b, and for Σ_k a_t(k) b_t(k), on which gamma and xi are normalised.
// Comparisons are written so that NaN fails them.

constexpr double safe = 1e-100, log_safe = -230.25850929940458;
constexpr double negligible_above = 1e-150;

template <class T>
Transitions prepare(const T* log_a, int64_t K, int64_t stride, Workspace& memory) {
    Transitions A{K, stride, 0.0, false, memory.take<double>(K * stride), memory.take<double>(K * stride)};
    double shift = -INFINITY;
    for (int64_t i = 0; i < K * K; ++i) shift = larger(double(log_a[i]), shift);
    A.shift = std::isfinite(shift) ? shift : 0.0;
    for (int64_t i = 0; i < K; ++i) {
        double* row = A.by_row + i * stride;
        for (int64_t k = 0; k < stride; ++k) {
            row[k] = k < K ? double(log_a[i * K + k]) - A.shift : 0.0;
            A.lossy |= !(row[k] >= log_safe) && row[k] != -INFINITY;
        }
    }
    for (int64_t i = 0; i < K * stride; i += 4) store(A.by_row + i, exp(load<4>(A.by_row + i)));
    for (int64_t k = 0; k < K; ++k)
        for (int64_t i = 0; i < stride; ++i)
            A.by_column[k * stride + i] = i < K ? A.by_row[i * stride + k] : 1.0;
    return A;
}

// What one unit of work (W sequences or one) knows about itself, and its messages.
template <class L, class T>
struct Unit : Rows<L, T> {
    using V = typename L::V;
    using Scalar = typename L::Scalar;
    using Flag = typename L::Flag;

    V *a, *e;          // messages and emissions, R vectors a step
    V* initial;
    Scalar start;      // max_k log_initial(k), taken out
    Scalar *c, *peak;  // Σ_k a_t(k), max_k l_t(k)
    Scalar* dip;       // of each tile: the smallest finite l_t(k) − peak_t
    Flag bad{};        // sequences to be done again in log space
    Scalar log_z;

    // keep: all steps stay in memory, for the way back; otherwise one tile, and the step before it.
    Unit(const Problem<T>& problem, const int64_t* members, int count, bool keep, Workspace& memory)
        : Rows<L, T>(problem, members, count, memory) {
        const int64_t held = keep ? this->steps : std::min(this->steps, tile + 1);
        a = memory.take<V>(held * this->R);
        e = memory.take<V>(held * this->R);
        initial = memory.take<V>(this->R);
        c = memory.take<Scalar>(held + W);  // read in whole vectors
        peak = memory.take<Scalar>(held);
        dip = memory.take<Scalar>(keep ? this->steps / tile + 1 : 1);
    }
};

// out_b = Σ_j x_j M_jb
template <int B, class X, class M, class V>
inline void product(const X* x, const M* matrix, int64_t K, int64_t stride, V (&out)[B]) {
    for (int b = 0; b < B; ++b) out[b] = V{};
    int64_t j = 0;
    if constexpr (B <= 2) {  // too few sums to hide the latency of an addition: twice as many
        V odd[B] = {};
        for (; j + 2 <= K; j += 2)
            for (int b = 0; b < B; ++b) {
                out[b] += x[j] * matrix[j * stride + b];
                odd[b] += x[j + 1] * matrix[(j + 1) * stride + b];
            }
        for (int b = 0; b < B; ++b) out[b] += odd[b];
    }
    for (; j < K; ++j)
        for (int b = 0; b < B; ++b) out[b] += x[j] * matrix[j * stride + b];
}

// The careful look at one product of the recursion that had a small sum: see the argument above.
template <class L, class U>
void inspect(const U& unit, const typename L::V* message, const double* matrix, int64_t stride,
             typename L::Flag inside, typename L::Flag& lost, typename L::Flag& bad) {
    using V = typename L::V;
    using Weight = typename L::Weight;
    V total{};
    for (int64_t r = 0; r < unit.R; ++r) total += message[r];
    const auto scale = inverse_power(L::total(total));
    const auto lost_before = lost;
    in_blocks(unit.R, [&](auto block, int64_t first) {
        V sums[block];
        product<block>(unit.message(message), reinterpret_cast<const Weight*>(matrix) + first, unit.K,
                       stride * int64_t(sizeof(double)) / int64_t(sizeof(Weight)), sums);
        for (int b = 0; b < block; ++b) {
            const V p = sums[b] * scale;
            const auto zero = L::fold(p == 0.0);
            const auto faint = L::fold((p < negligible_above) & (p != 0.0));
            bad |= inside & (faint | (zero & lost_before));
            lost |= L::fold((p < safe) & (p != 0.0));
        }
    });
}

// after(t0, t1) is called when the messages of these steps are there.  Without `keep` it is the last to see them: the
// tables then start at step t1 − 1 and the next tile overwrites the rest.
template <class L, class T, class After>
void forward(Unit<L, T>& u, const Transitions& A, const Emissions& E, bool keep, After after) {
    using V = typename L::V;
    using Scalar = typename L::Scalar;
    using Weight = typename L::Weight;
    const int64_t R = u.R, steps = u.steps;
    const int64_t stride = A.stride * int64_t(sizeof(double)) / int64_t(sizeof(Weight));
    const Weight* weights = reinterpret_cast<const Weight*>(A.by_row);
    const V none = V{} - INFINITY;

    if (u.problem.pieces) u.read(u.problem.pieces->entering, u.K, 1, u.initial, -INFINITY);
    else u.read(u.problem.initial, u.K, 1, u.initial, -INFINITY);
    V top = none, bottom{};
    for (int64_t r = 0; r < R; ++r) top = larger(u.initial[r], top);
    const Scalar start = u.start = L::top(top);
    V *first_a = u.a, *first_e = u.e;
    Scalar *first_c = u.c, *first_peak = u.peak, last = Scalar{} + 1.0;
    Scalar least_c = Scalar{} + 1.0;
    for (int64_t r = 0; r < R; ++r) {
        const V x = u.initial[r] - start;
        bottom = smaller(x > -INFINITY ? x : V{}, bottom);
        u.initial[r] = exp(x);
    }
    u.bad = typename L::Flag{};
    auto lost = less(L::bottom(bottom), Scalar{} + log_safe) | -int64_t(A.lossy);

    LongSum<Scalar> shifts;  // of logarithms taken out
    Scalar exponents{};      // and of powers of two, counted exactly
    shifts.add(start);
    for (int64_t t0 = 0; t0 < steps; t0 += tile) {
        const int64_t t1 = std::min(t0 + tile, steps);
        Scalar& deepest = u.dip[keep ? t0 / tile : 0];
        const Scalar peaks = read_emissions(u, E, t0, t1, u.e, u.peak, deepest);
        V least = V{} + 1.0;
        for (int64_t t = t0; t < t1; ++t) {
            const V* e = u.e + t * R;
            V* a = u.a + t * R;
            V total{};
            const auto inside = u.inside(t);
            if (t == 0) {
                for (int64_t r = 0; r < R; ++r) total += a[r] = u.initial[r] * e[r];
            } else {
                const Scalar before = u.c[t - 1], scale = inverse_power(before);
                in_blocks(R, [&](auto block, int64_t first) {
                    V sums[block];
                    product<block>(u.message(a - R), weights + first, u.K, stride, sums);
                    for (int b = 0; b < block; ++b) {
                        const V predicted = sums[b] * scale;
                        if constexpr (L::sequences == 1) least = smaller(predicted, least);
                        else least = smaller(inside ? predicted : V{} + 1.0, least);
                        a[first + b] = sums[b] * (scale * e[first + b]);
                        total += a[first + b];
                    }
                });
                exponents += select(inside, exponent(before), Scalar{});
            }
            u.c[t] = L::total(total);
            last = select(inside, u.c[t], last);
            least_c = smaller(last, least_c);
        }
        shifts.add(peaks);
        u.bad |= less(least_c, Scalar{} + safe);
        lost |= less(deepest, Scalar{} + log_safe);
        if (any(less(L::bottom(least), Scalar{} + safe) & ~u.bad))
            for (int64_t t = std::max<int64_t>(t0, 1); t < t1; ++t)
                inspect<L>(u, u.a + (t - 1) * R, A.by_row, A.stride, u.inside(t), lost, u.bad);
        after(t0, t1);
        if (!keep) {
            std::copy(u.a + (t1 - 1) * R, u.a + t1 * R, first_a);
            first_c[0] = u.c[t1 - 1];
            u.a = first_a - (t1 - 1) * R;
            u.e = first_e - (t1 - 1) * R;
            u.c = first_c - (t1 - 1);
            u.peak = first_peak - (t1 - 1);
        }
    }
    u.log_z = (shifts.high + shifts.low) + (u.length - 1.0) * A.shift
              + (exponents * log_2 + log(last));
    u.bad |= ~less(Scalar{} - INFINITY, u.log_z);  // NaN has come through to here
}

// Sums over the pairs of a tile: pairs(i, r) += Σ_t a_t(i) u_t(r), a block of sums in registers.
template <int I, int J, class X, class V>
inline void outer_block(const X* x, const V* y, int64_t n, int64_t x_pitch, int64_t y_pitch, V* to,
                        int64_t pitch) {
    V sums[I][J];
    for (int i = 0; i < I; ++i)
        for (int j = 0; j < J; ++j) sums[i][j] = to[i * pitch + j];
    for (int64_t t = 0; t < n; ++t, x += x_pitch, y += y_pitch)
        for (int i = 0; i < I; ++i)
            for (int j = 0; j < J; ++j) sums[i][j] += x[i] * y[j];
    for (int i = 0; i < I; ++i)
        for (int j = 0; j < J; ++j) to[i * pitch + j] = sums[i][j];
}

// lower: only j ≤ i is asked for, and up to three entries beside the diagonal are written with it.
template <class X, class V>
void outer(const X* x, const V* y, int64_t n, int64_t K, int64_t R, int64_t x_pitch, V* to, bool lower = false) {
    for (int64_t i = 0, rows; i < K; i += rows) {
        rows = i + 4 <= K ? 4 : 1;
        const int64_t end = lower ? i + rows : R;
        int64_t j = 0;
        if (rows == 4) {
            for (; j + 4 <= end; j += 4)
                outer_block<4, 4>(x + i, y + j, n, x_pitch, R, to + i * R + j, R);
            for (; j < end; ++j) outer_block<4, 1>(x + i, y + j, n, x_pitch, R, to + i * R + j, R);
        } else {
            for (; j + 4 <= end; j += 4)
                outer_block<1, 4>(x + i, y + j, n, x_pitch, R, to + i * R + j, R);
            for (; j < end; ++j) outer_block<1, 1>(x + i, y + j, n, x_pitch, R, to + i * R + j, R);
        }
    }
}

// b before the first step, from b at it: b_{-1}(i) ∝ Σ_k A_ik e_0(k) b_0(k).  Returns the smallest of its numbers.
template <class L, class T>
typename L::V step_back(const Unit<L, T>& u, const Transitions& A, const typename L::V* e, typename L::V* x,
                        typename L::V* b) {
    using V = typename L::V;
    using Weight = typename L::Weight;
    V total{}, least = V{} + 1.0;
    for (int64_t r = 0; r < u.R; ++r) total += x[r] = e[r] * b[r];
    const auto scale = inverse_power(L::total(total));
    in_blocks(u.R, [&](auto block, int64_t first) {
        V sums[block];
        product<block>(u.message(x), reinterpret_cast<const Weight*>(A.by_column) + first, u.K,
                       A.stride * int64_t(sizeof(double)) / int64_t(sizeof(Weight)), sums);
        for (int i = 0; i < block; ++i) {
            b[first + i] = sums[i] * scale;
            least = smaller(b[first + i], least);
        }
    });
    return least;
}

// The backward message before the first step, from ones after the last.  Sequences of one length.  Whatever small
// number turns up makes a sequence bad: the caller has another way.
template <class L, class T>
typename L::V* recede(Unit<L, T>& u, const Transitions& A, const Emissions& E, Workspace& memory) {
    using V = typename L::V;
    V *b = memory.take<V>(u.R), *x = memory.take<V>(u.R), least = V{} + 1.0;
    std::fill(b, b + u.R, V{} + 1.0);
    for (int64_t t0 = 0; t0 < u.steps; t0 += tile)
        read_emissions(u, E, t0, std::min(t0 + tile, u.steps), u.e, u.peak, u.dip[0]);
    for (int64_t t = u.steps - 1; t >= 0; --t) least = smaller(step_back(u, A, u.e + t * u.R, x, b), least);
    u.bad |= ~less(typename L::Scalar{} + safe, L::bottom(least));
    return b;
}

// The way back: each(t0, t1, gamma) as soon as gamma of these steps is there, later tiles first.  Returns Σ_t xi_t as
// K × R vectors.  e_t is overwritten by u_t on the way.
template <class L, class T, class Each>
typename L::V* backward(Unit<L, T>& u, const Transitions& A, Workspace& memory, Each each) {
    using V = typename L::V;
    using Scalar = typename L::Scalar;
    using Weight = typename L::Weight;
    using Message = typename L::Message;
    const int64_t R = u.R, K = u.K, steps = u.steps;
    const int64_t stride = A.stride * int64_t(sizeof(double)) / int64_t(sizeof(Weight));
    const Weight* weights = reinterpret_cast<const Weight*>(A.by_column);
    V* b = memory.take<V>(R);
    V* gamma = memory.take<V>(tile * R);
    V* pairs = memory.take<V>(K * R);
    std::fill(pairs, pairs + K * R, V{});
    auto lost = u.bad | -int64_t(A.lossy);
    const Scalar one = Scalar{} + 1.0;

    for (int64_t t0 = (steps - 1) / tile * tile; t0 >= 0; t0 -= tile) {
        const int64_t t1 = std::min(t0 + tile, steps);
        V least = V{} + 1.0;
        for (int64_t t = t1 - 1; t >= t0; --t) {
            const V* a = u.a + t * R;
            V* next = u.e + (t + 1) * R;
            const auto inside = u.inside(t), inside_next = u.inside(t + 1);
            Scalar scale = one;
            if (t == steps - 1) {
                if (u.problem.pieces) u.read(u.problem.pieces->leaving, K, 1, b, 1.0);
                else std::fill(b, b + R, V{} + 1.0);
            } else {
                V total{};
                for (int64_t r = 0; r < R; ++r) total += next[r] *= b[r];
                const Scalar weight = L::total(total);
                scale = inverse_power(weight);
                u.bad |= inside_next & ~less(Scalar{} + safe, weight);
                in_blocks(R, [&](auto block, int64_t first) {
                    V sums[block];
                    product<block>(u.message(next), weights + first, K, stride, sums);
                    for (int i = 0; i < block; ++i) {
                        b[first + i] = sums[i] * scale;
                        if constexpr (L::sequences == 1) least = smaller(b[first + i], least);
                        else least = smaller(inside_next ? b[first + i] : V{} + 1.0, least);
                    }
                });
                if (t + 1 >= u.shortest)
                    for (int64_t r = 0; r < R; ++r) b[r] = inside_next ? b[r] : V{} + 1.0;
            }
            V total{};
            for (int64_t r = 0; r < R; ++r) total += a[r] * b[r];
            const Scalar evidence = L::total(total), inverse = 1.0 / evidence;
            u.bad |= inside & ~less(Scalar{} + negligible_above, evidence);
            const Scalar real = select(inside, inverse, Scalar{});  // gamma is 0 on padding
            for (int64_t r = 0; r < R; ++r) gamma[(t - t0) * R + r] = a[r] * b[r] * real;
            if (t + 1 < steps) {
                const Scalar factor = select(inside_next, scale * inverse, Scalar{});
                for (int64_t r = 0; r < R; ++r) next[r] *= factor;
            }
        }
        // b_t takes in the emissions of step t + 1, which for the last t lie in the next tile
        lost |= less(u.dip[t0 / tile], Scalar{} + log_safe);
        if (any(less(L::bottom(least), Scalar{} + safe) & ~u.bad))
            for (int64_t t = std::min(t1, steps - 1) - 1; t >= t0; --t)
                inspect<L>(u, u.e + (t + 1) * R, A.by_column, A.stride, u.inside(t + 1), lost, u.bad);
        outer(u.message(u.a + t0 * R), u.e + (t0 + 1) * R, std::min(t1, steps - 1) - t0, K, R,
              R * int64_t(sizeof(V)) / int64_t(sizeof(Message)), pairs);
        each(t0, t1, gamma);
    }
    if (u.problem.pieces) {
        step_back(u, A, u.e, gamma, b);
        u.put(b, u.problem.pieces->back);
    }
    for (int64_t i = 0; i < K; ++i)
        for (int64_t r = 0; r < R; ++r)
            pairs[i * R + r] *= reinterpret_cast<const Weight*>(A.by_row)[i * stride + r];
    return pairs;
}

// Filtered probabilities and log-normalisers of the steps t0 to t1 − 1.
template <class L, class T>
void write_filtered(Unit<L, T>& u, const Transitions& A, int64_t t0, int64_t t1,
                    const Filtered<T>& out, double* rest, double* normalizer) {
    using Scalar = typename L::Scalar;
    const int64_t R = u.R, K = u.K, T_ = u.problem.T_;
    for (int64_t t = t0; t < t1; ++t) {
        const Scalar inverse = 1.0 / u.c[t];
        for (int64_t r = 0; r < R; ++r) u.e[t * R + r] = u.a[t * R + r] * inverse;
    }
    u.write(u.e + t0 * R, t1 - t0, out.probs + t0 * K, T_ * K);

    // a_t carries the power of two taken from a_{t-1}; the rest of c_{t-1}, between 1 and 2, has to come off.
    // Seen as plain numbers both layouts are the same: the step before lies `back` numbers before.
    constexpr int64_t back = L::sequences;
    const int64_t skip = t0 ? back : 0, n = (t1 - t0) * back + skip;
    const double* c = reinterpret_cast<double*>(u.c + t0) - skip;
    const double* peak = reinterpret_cast<double*>(u.peak + t0) - skip;
    const double* start = reinterpret_cast<double*>(&u.start);
    for (int64_t i = 0; i < n; i += W) {
        const Doubles<W> x = load<W>(c + i), fraction = log(x * inverse_power(x));
        store(rest + i, fraction);
        store(normalizer + i, fraction + exponent(x) * log_2);
    }
    if (!t0)
        for (int64_t i = 0; i < back; ++i) normalizer[i] += peak[i] + start[i];
    for (int64_t i = back; i < n; ++i) normalizer[i] += peak[i] + (A.shift - rest[i - back]);
    for (int w = 0; w < u.count; ++w) {
        T* row = out.log_normalizer + u.members[w] * T_ + t0;
        const double* from = normalizer + skip + w;
        for (int64_t t = 0; t < t1 - t0; ++t) row[t] = T(from[t * back]);
    }
}
