// Matrix products: in bfloat16 here, with quantized weights in strips.h. At most BLOCK columns at a time.
//
// A few rows are multiplied by the matrix as it is in memory, since reading it is the bottleneck. For many rows, a chunk
// of it is first packed into a panel of pairs, the operand layout of dpbf16.
//
// Shapes: M rows, N x K a matrix.
#pragma once
#include "strips.h"

constexpr int64_t CHUNK = 256;  // columns that are packed at once: 32 KB of pairs, which fit the L1 cache

// The activations of a product: rows in bfloat16, in int8, or both, as the matrices require.
struct Activations {
    std::vector<bf16> bf16_rows;  // (M, K)
    Int8Rows int8_rows;
    int64_t columns = 0;

    void set_rows(const float* from, int64_t M, int64_t K, std::initializer_list<const Matrix*> matrices) {
        columns = K;
        bool plain = false, blocks = false, wide = false;
        for (const Matrix* w : matrices) (in_blocks(w->kind) ? blocks : plain) = true, wide |= w->wide != 0;
        if (blocks) int8_rows.set_rows(from, M, K, wide);
        if (!plain) return;
        bf16_rows.resize(M * K);
        for (int64_t i = 0; i < M * K; i += 16) store_bf16(&bf16_rows[i], _mm512_loadu_ps(from + i));
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

// The same, accumulated in memory: out (M, 16 * J) with row stride `width`.
template <int M, int J, class Load>
inline void add_to(const bf16* rows, int64_t stride, int64_t from, int64_t to, float* out, int64_t width, Load&& load) {
    __m512 sum[M][J];
    for (int m = 0; m < M; m++)
        for (int j = 0; j < J; j++) sum[m][j] = _mm512_loadu_ps(out + m * width + 16 * j);
    add_products(rows, stride, from, to, sum, load);
    for (int m = 0; m < M; m++)
        for (int j = 0; j < J; j++) _mm512_storeu_ps(out + m * width + 16 * j, sum[m][j]);
}

// Loads pairs packed by pack_pairs, with `width` columns.
template <int J>
struct PackedPairs {
    const int32_t* pairs;
    int64_t width;
    void operator()(int64_t k, __m512bh (&v)[J]) const {
        for (int j = 0; j < J; j++) v[j] = load_pairs(pairs + k / 2 * width + 16 * j);
    }
};

// Product with a matrix stored in rows, without packing.
template <int M>
void product_of_rows(const bf16* weights, int64_t count, const bf16* rows, int64_t K, float* __restrict out) {
    for (int64_t n = 0; n < count; n += 4) {
        const bf16* at[4];  // four rows; past the end: repeat the last one
        for (int j = 0; j < 4; j++) at[j] = weights + std::min(n + j, count - 1) * K;
        __m512 sum[M][4] = {};
        for (int64_t k = 0; k < K; k += 32) {
            __m512bh v[4];
            for (int j = 0; j < 4; j++) {
                prefetch(at[0] + 4 * k + 32 * j);  // four rows are contiguous
                v[j] = load_pairs(at[j] + k);
            }
            for (int m = 0; m < M; m++) {
                const __m512bh row = load_pairs(rows + m * K + k);
                for (int j = 0; j < 4; j++) sum[m][j] = _mm512_dpbf16_ps(sum[m][j], v[j], row);
            }
        }
        for (int m = 0; m < M; m++) _mm_storeu_ps(out + m * BLOCK + n, horizontal_sums(sum[m]));
    }
}

// M rows of x times `count` rows of a matrix from `first` on, at most BLOCK: out (M, BLOCK). row_independent: with bfloat16
// weights, each row's result does not depend on M; otherwise many rows are packed. Quantized products are always so.
inline void multiply_block(const Matrix& w, int64_t first, int64_t count, const Activations& x, int64_t M, bool row_independent, float* out) {
    const int64_t K = w.columns;
    const bf16* weights = (const bf16*)w.data + first * K;
    with_format(w.kind, [&](auto format) { multiply_strips<decltype(format)>(w, first, count, x.int8_rows, M, out, BLOCK); });
    if (w.kind == BF16 && (row_independent || M <= ROW_TILE)) {
        for_row_tiles(M, [&](auto tile, int64_t row) {
            product_of_rows<tile>(weights, count, &x.bf16_rows[row * K], K, out + row * BLOCK);
        });
    } else if (w.kind == BF16) {
        std::fill(out, out + M * BLOCK, 0.0f);
        alignas(64) int32_t panel[CHUNK / 2 * BLOCK];
        for (int64_t from = 0; from < K; from += CHUNK) {
            const int64_t to = std::min(K, from + CHUNK);
            pack_pairs(weights + from, K, count, to - from, panel);
            const PackedPairs<4> load{panel - from / 2 * BLOCK, BLOCK};
            for_row_tiles(M, [&](auto tile, int64_t row) {
                add_to<tile, 4>(&x.bf16_rows[row * K], K, from, to, out + row * BLOCK, BLOCK, load);
            });
        }
    }
    if (w.bias)
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = 0; n < count; n++) out[m * BLOCK + n] += to_float(w.bias[first + n]);
}

// A thread's part of a product: rows `begin` to `end`, and part `part` of `parts` of the matrix's strips. With many
// rows, each thread takes its own rows and the whole matrix.
struct Partition {
    int64_t begin, end, part, parts;
    static constexpr int64_t MIN_ROWS_PER_THREAD = 64;  // rows per thread from which rows are divided, not the matrix
    Partition(int64_t begin, int64_t end, int64_t part, int64_t parts) : begin(begin), end(end), part(part), parts(parts) {}
    Partition(int64_t M, int64_t thread, int64_t threads) : Partition(0, M, thread, threads) {
        if (M >= MIN_ROWS_PER_THREAD * threads) *this = {M * thread / threads, M * (thread + 1) / threads, 0, 1};
    }
};

// Products of a partition. Calls store(matrix, row, first column, count, values).
template <class Store>
void multiply(const Partition& partition, bool row_independent, std::initializer_list<const Matrix*> matrices, const Activations& activations,
              Store&& store) {
    int64_t strips = 0;
    for (const Matrix* w : matrices) strips += (w->rows + LANES - 1) / LANES;
    const int64_t from = strips * partition.part / partition.parts, to = strips * (partition.part + 1) / partition.parts;
    const int64_t rows = partition.end - partition.begin;
    std::vector<float> out(rows * BLOCK);
    int64_t before = 0, which = 0;
    for (const Matrix* w : matrices) {
        const int64_t end = std::min(w->rows, (to - before) * LANES);
        for (int64_t first = std::max<int64_t>(from - before, 0) * LANES; first < end; first += BLOCK) {
            const int64_t count = std::min(BLOCK, end - first);
            multiply_block(*w, first, count, activations, rows, row_independent, out.data());
            for (int64_t i = 0; i < rows; i++) store(which, partition.begin + i, first, count, &out[i * BLOCK]);
        }
        before += (w->rows + LANES - 1) / LANES, which++;
    }
}
