// Vectors of doubles, their exponential and logarithm, and transposition.
//
// Included once for every instruction set, inside its namespace (see _cpu.cpp), which defines W, the
// number of doubles in a vector.  Only the vector extensions that GCC and Clang share are used, so the
// same text serves SSE2, AVX2, AVX-512 and Arm.  No include guard, on purpose.

template <class T, int N>
struct VectorOf {
    typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::type;
template <int N>
using Doubles = Vector<double, N>;
template <class V>
using MaskOf = decltype(V{} < V{});  // −1 true, 0 false, as comparisons give it

template <int N, class T>
inline Doubles<N> load(const T* p) {
    Vector<T, N> v;
    __builtin_memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, Doubles<N>);
}

template <class T, class V>
inline void store(T* p, V v) {
    using Out = Vector<T, sizeof(V) / sizeof(double)>;
    Out out = __builtin_convertvector(v, Out);
    __builtin_memcpy(p, &out, sizeof out);
}

// The same three words for a vector (one number a lane) and for a plain double (one number for all).
template <class V>
inline MaskOf<V> less(V a, V b) { return a < b; }
inline int64_t less(double a, double b) { return -int64_t(a < b); }

template <class M, class V>
inline V select(M mask, V yes, V no) { return mask ? yes : no; }

template <class V>
inline V smaller(V a, V b) { return a < b ? a : b; }
template <class V>
inline V larger(V a, V b) { return a > b ? a : b; }

// Horizontal reductions, by halving.
struct Plus { template <class V> static V of(V a, V b) { return a + b; } };
struct Most { template <class V> static V of(V a, V b) { return larger(a, b); } };
struct Least { template <class V> static V of(V a, V b) { return smaller(a, b); } };
struct Or { template <class V> static V of(V a, V b) { return a | b; } };

template <int From, class V, int... I>
inline auto part(V v, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(v, v, (From + I)...);
}

template <class Op, int N, class T, class V>
inline T reduce(V v) {
    if constexpr (N == 2) {
        return Op::of(T(v[0]), T(v[1]));
    } else {
        using Half = std::make_integer_sequence<int, N / 2>;
        return reduce<Op, N / 2, T>(Op::of(part<0>(v, Half()), part<N / 2>(v, Half())));
    }
}

template <class V>
constexpr int lanes = sizeof(V) / sizeof(double);
template <class V> inline double sum(V v) { return reduce<Plus, lanes<V>, double>(v); }
template <class V> inline double highest(V v) { return reduce<Most, lanes<V>, double>(v); }
template <class V> inline double lowest(V v) { return reduce<Least, lanes<V>, double>(v); }
template <class M> inline bool any(M m) { return reduce<Or, lanes<M>, int64_t>(m) != 0; }
inline bool any(int64_t m) { return m != 0; }

// exp(x) for x ≤ 700: 1 ulp, exactly 0 below −708 (so for −∞ too), NaN for NaN.
// x = n log 2 + r with |r| ≤ log 2 / 2; a polynomial in r; n goes into the exponent's bits.
template <class V>
inline V exp(V x) {
    using Bits = Vector<uint64_t, lanes<V>>;  // unsigned: shifting a negative number is undefined
    const double round = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
    const V shifted = x * 1.4426950408889634 + round;
    const V n = shifted - round;
    const V r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
    V p = r * 2.510038549551032e-08 + 2.7620088445409746e-07;
    p = p * r + 2.7557268459997064e-06;
    p = p * r + 2.4801521295954376e-05;
    p = p * r + 1.9841269863053618e-04;
    p = p * r + 1.3888888917213717e-03;
    p = p * r + 8.333333333330062e-03;
    p = p * r + 4.166666666662413e-02;
    p = p * r + 1.6666666666666669e-01;
    p = p * r + 0.5;
    p = p * (r * r) + r + 1.0;
    const V y = (V)((Bits)p + ((Bits)shifted << 52));
    return x < -708.0 ? V{} : y;
}

// x = m 2^n with 1 ≤ m < 2, for positive normal x.
inline double power_of_two(uint64_t biased) {
    biased <<= 52;
    double x;
    __builtin_memcpy(&x, &biased, sizeof x);
    return x;
}
inline double exponent(double x) {
    int64_t bits;
    __builtin_memcpy(&bits, &x, sizeof x);
    return double(((bits >> 52) & 2047) - 1023);
}
inline double inverse_power(double x) {  // 2^−n
    int64_t bits;
    __builtin_memcpy(&bits, &x, sizeof x);
    return power_of_two(2046 - uint64_t((bits >> 52) & 2047));
}
template <class V>
inline V exponent(V x) {
    using M = MaskOf<V>;
    const double magic = 0x1.8p52;  // integers as doubles without a conversion that AVX2 lacks
    const M bits = (((M)x >> 52) & 2047) + 0x4338000000000000;
    return (V)bits - (magic + 1023.0);
}
template <class V>
inline V inverse_power(V x) {
    using M = MaskOf<V>;
    return (V)((2046 - (((M)x >> 52) & 2047)) << 52);
}

// log(x) for positive normal x: under 1 ulp (the algorithm of fdlibm's e_log.c), NaN for NaN.
inline double log(double x) { return std::log(x); }
template <class V>
inline V log(V x) {
    const V up = exponent(x);
    V m = x * inverse_power(x);
    const MaskOf<V> high = m > 1.4142135623730951;
    m = high ? m * 0.5 : m;
    const V n = high ? up + 1.0 : up;
    const V f = m - 1.0, s = f / (f + 2.0), z = s * s, w = z * z, half = f * f * 0.5;
    const V even = w * (w * (w * 1.531383769920937332e-01 + 2.222219843214978396e-01)
                        + 3.999999999940941908e-01);
    const V odd = z * (w * (w * (w * 1.479819860511658591e-01 + 1.818357216161805012e-01)
                            + 2.857142874366239149e-01) + 6.666666666666735130e-01);
    return n * 6.93147180369123816490e-01
           - ((half - (s * (half + even + odd) + n * 1.90821492927058770002e-10)) - f);
}

// A running sum that keeps what each addition rounds off (Knuth's two-sum).
template <class V>
struct LongSum {
    V high{}, low{};
    void add(V x) {
        const V sum = high + x, part = sum - high;
        low += (high - (sum - part)) + (x - part);
        high = sum;
    }
};

// Transposition of a W × W block in registers: stage h swaps the off-diagonal blocks of width h.
template <int H, class V, int... I>
inline void swap_blocks(V& a, V& b, std::integer_sequence<int, I...>) {
    const V top = __builtin_shufflevector(a, b, ((I & H) ? W + I - H : I)...);
    const V bottom = __builtin_shufflevector(a, b, ((I & H) ? W + I : I + H)...);
    a = top;
    b = bottom;
}

template <int H = 1, class V>
inline void transpose(V (&rows)[W]) {
    for (int i = 0; i < W; ++i)
        if (!(i & H)) swap_blocks<H>(rows[i], rows[i + H], std::make_integer_sequence<int, W>());
    if constexpr (2 * H < W) transpose<2 * H>(rows);
}

// W rows of n numbers into n vectors with a row a lane, and back.
template <class T, class V>
inline void gather_lanes(const T* const (&rows)[W], int64_t n, V* out) {
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        V block[W];
        for (int w = 0; w < W; ++w) {
            Vector<T, W> row;
            __builtin_memcpy(&row, rows[w] + i, sizeof row);
            block[w] = __builtin_convertvector(row, V);
        }
        transpose(block);
        for (int w = 0; w < W; ++w) out[i + w] = block[w];
    }
    for (; i < n; ++i)
        for (int w = 0; w < W; ++w) out[i][w] = rows[w][i];
}

template <class T>
inline void scatter_lanes(const Doubles<W>* in, int64_t n, T* const (&rows)[W]) {
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        Doubles<W> block[W];
        for (int w = 0; w < W; ++w) block[w] = in[i + w];
        transpose(block);
        for (int w = 0; w < W; ++w) store(rows[w] + i, block[w]);
    }
    for (; i < n; ++i)
        for (int w = 0; w < W; ++w) rows[w][i] = T(in[i][w]);
}
