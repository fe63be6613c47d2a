// Products of rows and a matrix: in bfloat16 here, in blocks of fewer bits in strips.h. BLOCK columns at a time at most.
//
// A few rows are multiplied by the matrix as it lies in memory: reading it is what takes the time. For many, a piece of
// it is opened first into a panel of pairs, the form that the processor's products of pairs take.
//
// Shapes: M rows, N x K a matrix.
#pragma once
#include "strips.h"

constexpr int64_t CHUNK = 256;  // columns that are opened at once: 32 KB of pairs, which the nearest cache holds

// What is multiplied: rows in bfloat16 or in 8 bits, as the matrices ask for.
struct Source {
    std::vector<bf16> halves;  // (M, K)
    EightBits eight;
    int64_t columns = 0;

    void take(const float* from, int64_t M, int64_t K, std::initializer_list<const Matrix*> matrices) {
        columns = K;
        bool plain = false, blocks = false, wide = false;
        for (const Matrix* w : matrices) (in_blocks(w->kind) ? blocks : plain) = true, wide |= w->wide != 0;
        if (blocks) eight.take(from, M, K, wide);
        if (!plain) return;
        halves.resize(M * K);
        for (int64_t i = 0; i < M * K; i += 16) store_bf16(&halves[i], _mm512_loadu_ps(from + i));
    }
};

// sum[m][j] += rows m times 16 columns j, over k from `from` to `to`. load(k, v): the columns' pairs of k and k + 1.
template <int M, int J, class Load>
inline void add_products(const bf16* rows, int64_t stride, int64_t from, int64_t to, __m512 (&sum)[M][J], Load&& load) {
    for (int64_t k = from; k < to; k += 2) {
        __m512bh v[J];
        load(k, v);
        for (int m = 0; m < M; m++) {
            int32_t pair;
            std::memcpy(&pair, rows + m * stride + k, 4);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            for (int j = 0; j < J; j++) sum[m][j] = _mm512_dpbf16_ps(sum[m][j], v[j], both);
        }
    }
}

// The same, added to what is in memory: out (M, 16 * J), its rows `width` apart.
template <int M, int J, class Load>
inline void add_to(const bf16* rows, int64_t stride, int64_t from, int64_t to, float* out, int64_t width, Load&& load) {
    __m512 sum[M][J];
    for (int m = 0; m < M; m++)
        for (int j = 0; j < J; j++) sum[m][j] = _mm512_loadu_ps(out + m * width + 16 * j);
    add_products(rows, stride, from, to, sum, load);
    for (int m = 0; m < M; m++)
        for (int j = 0; j < J; j++) _mm512_storeu_ps(out + m * width + 16 * j, sum[m][j]);
}

// Reads pairs that lie side by side, `width` columns of them.
template <int J>
struct Opened {
    const int32_t* pairs;
    int64_t width;
    void operator()(int64_t k, __m512bh (&v)[J]) const {
        for (int j = 0; j < J; j++) v[j] = load_pairs(pairs + k / 2 * width + 16 * j);
    }
};

// Numbers that lie in rows, multiplied as they lie.
template <int M>
void product_of_rows(const bf16* numbers, int64_t count, const bf16* rows, int64_t K, float* __restrict out) {
    for (int64_t n = 0; n < count; n += 4) {
        const bf16* at[4];  // four rows; past the end, the last one once more
        for (int j = 0; j < 4; j++) at[j] = numbers + std::min(n + j, count - 1) * K;
        __m512 sum[M][4] = {};
        for (int64_t k = 0; k < K; k += 32) {
            __m512bh v[4];
            for (int j = 0; j < 4; j++) {
                ask(at[0] + 4 * k + 32 * j);  // four rows lie in one piece
                v[j] = load_pairs(at[j] + k);
            }
            for (int m = 0; m < M; m++) {
                const __m512bh row = load_pairs(rows + m * K + k);
                for (int j = 0; j < 4; j++) sum[m][j] = _mm512_dpbf16_ps(sum[m][j], v[j], row);
            }
        }
        for (int m = 0; m < M; m++) _mm_storeu_ps(out + m * BLOCK + n, totals(sum[m]));
    }
}

// M rows of x times `count` rows of a matrix from `first` on, BLOCK at most: out (M, BLOCK). alone: in bfloat16, each as
// if it came alone; else many are multiplied in another way. In blocks there is one way.
inline void multiply_block(const Matrix& w, int64_t first, int64_t count, const Source& x, int64_t M, bool alone, float* out) {
    const int64_t K = w.columns;
    const bf16* numbers = (const bf16*)w.numbers + first * K;
    with_format(w.kind, [&](auto format) { multiply_strips<decltype(format)>(w, first, count, x.eight, M, out, BLOCK); });
    if (w.kind == BF16 && (alone || M <= SIDE)) {
        by_sides(M, [&](auto side, int64_t row) {
            product_of_rows<side>(numbers, count, &x.halves[row * K], K, out + row * BLOCK);
        });
    } else if (w.kind == BF16) {
        std::fill(out, out + M * BLOCK, 0.0f);
        alignas(64) int32_t panel[CHUNK / 2 * BLOCK];
        for (int64_t from = 0; from < K; from += CHUNK) {
            const int64_t to = std::min(K, from + CHUNK);
            open_rows(numbers + from, K, count, to - from, panel);
            const Opened<4> load{panel - from / 2 * BLOCK, BLOCK};
            by_sides(M, [&](auto side, int64_t row) {
                add_to<side, 4>(&x.halves[row * K], K, from, to, out + row * BLOCK, BLOCK, load);
            });
        }
    }
    if (w.bias)
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = 0; n < count; n++) out[m * BLOCK + n] += to_float(w.bias[first + n]);
}

// A thread's part of a product: these rows, and one part in so many of the strips of a matrix. With many rows, each
// thread takes rows of its own through all of it.
struct Share {
    int64_t begin, end, part, parts;
    static constexpr int64_t APART = 64;  // rows a thread, from which it takes its own
    Share(int64_t begin, int64_t end, int64_t part, int64_t parts) : begin(begin), end(end), part(part), parts(parts) {}
    Share(int64_t M, int64_t me, int64_t threads) : Share(0, M, me, threads) {
        if (M >= APART * threads) *this = {M * me / threads, M * (me + 1) / threads, 0, 1};
    }
};

// Products of the rows of a share. store(matrix, row, first column, count, values)
template <class Store>
void multiply(const Share& share, bool alone, std::initializer_list<const Matrix*> matrices, const Source& source,
              Store&& store) {
    int64_t strips = 0;
    for (const Matrix* w : matrices) strips += (w->rows + LANES - 1) / LANES;
    const int64_t from = strips * share.part / share.parts, to = strips * (share.part + 1) / share.parts;
    const int64_t rows = share.end - share.begin;
    std::vector<float> out(rows * BLOCK);
    int64_t before = 0, which = 0;
    for (const Matrix* w : matrices) {
        const int64_t end = std::min(w->rows, (to - before) * LANES);
        for (int64_t first = std::max<int64_t>(from - before, 0) * LANES; first < end; first += BLOCK) {
            const int64_t count = std::min(BLOCK, end - first);
            multiply_block(*w, first, count, source, rows, alone, out.data());
            for (int64_t i = 0; i < rows; i++) store(which, share.begin + i, first, count, &out[i * BLOCK]);
        }
        before += (w->rows + LANES - 1) / LANES, which++;
    }
}
