// Products of rows in bfloat16 and a matrix that is packed in some way (quantize/linear.py), BLOCK columns at a time.
//
// A few rows are multiplied by the matrix as it lies in memory: reading it is what takes the time. For many, a piece of
// it is opened first into a panel of pairs, the form that the processor's products of pairs take.
//
// Shapes: M rows, N x K a matrix, G = K / GROUP.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "layout.h"
#include "numbers.h"

constexpr int CHUNK = 256;  // columns that are opened at once: 32 KB of pairs, which the nearest cache holds
constexpr int AHEAD = 4096;  // bytes of a matrix that are asked for before they are needed
constexpr int SIDE = 6;      // rows of tokens that are multiplied at once: 6 x 4 sums, 4 of the matrix in 32 registers

inline void ask(const void* p) { _mm_prefetch((const char*)p + AHEAD, _MM_HINT_T0); }

// What is multiplied: rows in bfloat16, and, for zeros of 4 bits, the sums of their groups.
struct Source {
    const bf16* rows;
    std::vector<float> sums;  // (M, G)
    int64_t columns;
    void take(const bf16* from, int64_t m, int64_t k) {
        rows = from, columns = k;
        sums.resize(m * (k / GROUP));
        for (int64_t g = 0; g < m * (k / GROUP); g++) {
            __m512 sum = _mm512_add_ps(load_floats(from + g * GROUP), load_floats(from + g * GROUP + 16));
            sums[g] = _mm512_reduce_add_ps(sum);
        }
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

// Reads a block of 4 bits as it is packed.
struct Packed {
    const uint8_t* bytes;
    __m512i values, places[2];
    Packed(const Matrix& w, int64_t first) : bytes((const uint8_t*)w.numbers + first / BLOCK * w.columns * (BLOCK / 2)) {
        alignas(64) bf16 value[32];
        alignas(64) uint8_t place[2][64];
        for (int i = 0; i < 32; i++) value[i] = bf16(bits(float(i % 16 - 8)) >> 16);  // twice: the fifth bit is another's
        for (int i = 0; i < 64; i++)  // two columns side by side in each lane, as the products of pairs want them
            for (int half : {0, 1}) place[half][i] = uint8_t(16 * half + i / 4 + i / 2 % 2 * 32);
        values = _mm512_load_si512(value);
        for (int half : {0, 1}) places[half] = _mm512_load_si512(place[half]);
    }
    void operator()(int64_t k, __m512bh (&v)[4]) const {
        const uint8_t* p = bytes + k * (BLOCK / 2);
        ask(p);
        const __m512i both = _mm512_loadu_si512(p);
        for (int half : {0, 1}) {
            __m512i low = _mm512_permutexvar_epi8(places[half], both);
            v[half] = (__m512bh)_mm512_permutexvar_epi16(low, values);
            v[half + 2] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(low, 4), values);
        }
    }
    void open(int64_t from, int64_t to, int32_t* pairs) const {
        for (int64_t k = from; k < to; k += 2, pairs += BLOCK) {
            __m512bh v[4];
            (*this)(k, v);
            for (int j = 0; j < 4; j++) _mm512_storeu_si512(pairs + 16 * j, (__m512i)v[j]);
        }
    }
};

// The scales of a group lie far from those of the next: no processor guesses that they will be read.
inline void ask_for_scales(const Matrix& w, int64_t first, int64_t g) {
    for (int j = 0; j < 4; j++) _mm_prefetch((const char*)(w.scales + 2 * (g * w.rows + first + 16 * j)), _MM_HINT_T0);
}

// Each group of 4-bit numbers, over k from `from` to `to`, is summed by itself, scaled and added to out (M, BLOCK): in
// this order always, whatever M and Load.
template <int M, class Load>
void add_groups(const Matrix& w, int64_t first, const Source& x, int64_t row, int64_t from, int64_t to,
                float* __restrict out, Load load) {
    const int64_t K = w.columns, N = w.rows, G = K / GROUP;
    const bf16 *rows = x.rows + row * K, *scales = w.scales + 2 * first;
    const float* sums = x.sums.data() + row * G;
    for (int64_t g = from / GROUP; g < to / GROUP; g++) {
        if constexpr (std::is_same_v<Load, Packed>) ask_for_scales(w, first, g + 4);
        __m512 sum[M][4] = {};
        add_products(rows, K, g * GROUP, (g + 1) * GROUP, sum, load);
        for (int j = 0; j < 4; j++) {
            __m512i pairs = _mm512_loadu_si512(scales + 2 * (g * N + 16 * j));
            __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
            __m512 zero = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
            for (int m = 0; m < M; m++) {
                float* y = out + m * BLOCK + 16 * j;
                __m512 total = _mm512_fmadd_ps(sum[m][j], scale, _mm512_loadu_ps(y));
                _mm512_storeu_ps(y, _mm512_fmadd_ps(zero, _mm512_set1_ps(sums[m * G + g]), total));
            }
        }
    }
}

// Numbers that lie in rows, multiplied as they lie.
template <int M, class Number>
void product_of_rows(const Number* numbers, int64_t count, const Source& x, int64_t row, float* __restrict out) {
    const int64_t K = x.columns;
    const bf16* rows = x.rows + row * K;
    for (int64_t n = 0; n < count; n += 4) {
        const Number* at[4];  // four rows; past the end, the last one once more
        for (int j = 0; j < 4; j++) at[j] = numbers + std::min(n + j, count - 1) * K;
        __m512 sum[M][4] = {};
        for (int64_t k = 0; k < K; k += 32) {
            __m512bh v[4];
            for (int j = 0; j < 4; j++) {
                ask(at[0] + 4 * k + 32 * j);  // four rows lie in one piece
                v[j] = (__m512bh)load_32(at[j] + k);
            }
            for (int m = 0; m < M; m++) {
                const __m512bh row = load_pairs(rows + m * K + k);
                for (int j = 0; j < 4; j++) sum[m][j] = _mm512_dpbf16_ps(sum[m][j], v[j], row);
            }
        }
        for (int m = 0; m < M; m++) _mm_storeu_ps(out + m * BLOCK + n, totals(sum[m]));
    }
}

// A function of how many rows are taken at once, as a constant: f(integral_constant<int, M>).
template <class F>
void with_rows(int64_t m, F&& f) {
    switch (m) {
        case 1: return f(std::integral_constant<int, 1>());
        case 2: return f(std::integral_constant<int, 2>());
        case 3: return f(std::integral_constant<int, 3>());
        case 4: return f(std::integral_constant<int, 4>());
        case 5: return f(std::integral_constant<int, 5>());
        default: return f(std::integral_constant<int, SIDE>());
    }
}

// For each few of M rows: f(integral_constant, row).
template <class F>
void by_sides(int64_t M, F&& f) {
    for (int64_t row = 0; row < M; row += SIDE)
        with_rows(std::min<int64_t>(SIDE, M - row), [&](auto side) { f(side, row); });
}

// M rows of x times the BLOCK columns of a matrix from `first` (fewer at its end): out (M, BLOCK). alone: each as if
// it came alone; else many may be multiplied in another way.
inline void multiply_block(const Matrix& w, int64_t first, const Source& x, int64_t M, bool alone, float* out) {
    const int64_t K = w.columns, count = std::min<int64_t>(BLOCK, w.rows - first);
    const int8_t* bytes = (const int8_t*)w.numbers + first * K;
    const bf16* halves = (const bf16*)w.numbers + first * K;
    const bool open = M > SIDE && (w.kind == INT4 || !alone);
    if (open || w.kind == INT4) std::fill(out, out + M * BLOCK, 0.0f);
    if (open) {
        alignas(64) int32_t panel[CHUNK / 2 * BLOCK];
        for (int64_t from = 0; from < K; from += CHUNK) {
            const int64_t to = std::min<int64_t>(from + CHUNK, K);
            const Opened<4> load{panel - from / 2 * BLOCK, BLOCK};
            if (w.kind == INT4) {
                for (int64_t g = from / GROUP; g < to / GROUP; g++) ask_for_scales(w, first, g);
                Packed(w, first).open(from, to, panel);
            } else if (w.kind == INT8) open_rows(bytes + from, K, count, to - from, panel);
            else open_rows(halves + from, K, count, to - from, panel);
            by_sides(M, [&](auto side, int64_t row) {
                constexpr int m = side;
                if (w.kind == INT4) add_groups<m>(w, first, x, row, from, to, out + row * BLOCK, load);
                else add_to<m, 4>(x.rows + row * K, K, from, to, out + row * BLOCK, BLOCK, load);
            });
        }
    } else {
        by_sides(M, [&](auto side, int64_t row) {
            constexpr int m = side;
            float* y = out + row * BLOCK;
            if (w.kind == INT4) add_groups<m>(w, first, x, row, 0, K, y, Packed(w, first));
            else if (w.kind == INT8) product_of_rows<m>(bytes, count, x, row, y);
            else product_of_rows<m>(halves, count, x, row, y);
        });
    }
    if (w.kind == INT8)
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = 0; n < count; n++) out[m * BLOCK + n] *= to_float(w.scales[first + n]);
    if (w.bias)
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = 0; n < count; n++) out[m * BLOCK + n] += to_float(w.bias[first + n]);
}
