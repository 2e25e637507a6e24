// The n most probable paths of one sequence: Viterbi over the n best scores of every state, as reference.py has it.
//
// Scalar code: of the candidates into a state only the head of each predecessor's sorted list is looked at, which leaves
// nothing for lanes to do side by side.

// states: n rows of T_ numbers, `pitch` apart; score: n numbers, B apart; origins: room for steps × K × n.
template <class T>
void best_paths(const Problem<T>& p, int64_t b, int64_t n, int32_t* origins, int64_t* states, int64_t pitch, T* score) {
    constexpr double never = -std::numeric_limits<double>::infinity();
    const int64_t K = p.K, steps = p.length(b), size = K * n;
    // message[k n + r]: the r-th best score of a path into state k; an origin is j n + r, of the step before
    std::vector<double> message(size, never), next(size), head(K);
    std::vector<int64_t> rank(K);
    double normalizer = 0.0;
    for (int64_t t = 0; t < steps; ++t) {
        const T* emission = p.emission + (b * p.T_ + t) * K;
        for (int64_t k = 0; k < K; ++k) {
            if (t == 0) {
                std::fill_n(&next[k * n], n, never);
                next[k * n] = double(p.initial[b * K + k]) + double(emission[k]);
                continue;
            }
            const T* A = p.log_transition(b, t);
            for (int64_t j = 0; j < K; ++j) head[j] = message[j * n] + double(A[j * K + k]), rank[j] = 0;
            for (int64_t r = 0; r < n; ++r) {
                const int64_t j = std::max_element(head.begin(), head.end()) - head.begin();
                next[k * n + r] = head[j] + double(emission[k]);
                origins[t * size + k * n + r] = int32_t(j * n + std::min(rank[j], n - 1));
                head[j] = ++rank[j] < n ? message[j * n + rank[j]] + double(A[j * K + k]) : never;
            }
        }
        double c = *std::max_element(next.begin(), next.end());
        if (c == never) c = 0.0;
        for (double& value : next) value -= c;
        normalizer += c;
        message.swap(next);
    }
    std::vector<int64_t> order(size);
    std::iota(order.begin(), order.end(), int64_t(0));
    const int64_t found = std::min(n, size);
    std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return message[i] > message[j]; });
    for (int64_t r = 0; r < n; ++r) {
        const double best = r < found ? message[order[r]] : never;
        int64_t* path = states + r * pitch;
        score[r * p.B] = T(normalizer + best);
        std::fill_n(path, p.T_, int64_t(-1));
        if (!(best > never)) continue;
        int64_t place = order[r];
        for (int64_t t = steps - 1; t >= 0; --t) {
            path[t] = place / n;
            if (t) place = origins[t * size + place];
        }
    }
}
