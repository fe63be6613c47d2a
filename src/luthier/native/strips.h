// Products of rows in 8 bits and a matrix in blocks (blocks.h).
//
// Of each row and GROUP, a product is summed in whole numbers, scaled, and added to a float: in this order always. So a
// result is the same to the last bit whatever rows are beside it, and however the work is shared.
//
// Shapes: M rows, K columns, G = K / GROUP, even.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "blocks.h"

constexpr int64_t SIDE = 6;       // rows of tokens that are multiplied at once: 6 sums and their 6 parts, 8 of the matrix
constexpr int64_t NEAR = 1024;    // columns after which the next rows of tokens come: the nearest cache holds both
constexpr int64_t AHEAD = 4096;  // bytes of a matrix that are asked for before they are needed

inline void ask(const void* p) { _mm_prefetch((const char*)p + AHEAD, _MM_HINT_T0); }

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

// Numbers of groups in 8 bits, and what goes with each group. Those of the m rows of a side lie together.
struct Groups {
    std::vector<int32_t> numbers;                          // of each group (8, m) times four
    std::vector<float> scales, sums;                       // (m). sums: of the numbers, scaled
    std::vector<int32_t> starts_8, starts_128, starts_32;  // (m), (m), (2, m): what an offset of weights takes off a sum

    void resize(int64_t n) {
        numbers.resize(8 * n), scales.resize(n), sums.resize(n);
        starts_8.resize(n), starts_128.resize(n), starts_32.resize(2 * n);
    }
    // Group number g of a side of m rows that begins at place `side`; its row r.
    void put(int64_t side, int64_t g, int64_t m, int64_t r, __m512i first, __m512i second, float scale) {
        alignas(64) int32_t four[8];
        _mm_store_si128((__m128i*)four, _mm512_cvtsepi32_epi8(first));
        _mm_store_si128((__m128i*)(four + 4), _mm512_cvtsepi32_epi8(second));
        for (int64_t i = 0; i < 8; i++) numbers[8 * side + (8 * g + i) * m + r] = four[i];
        const int32_t a = _mm512_reduce_add_epi32(first), b = _mm512_reduce_add_epi32(second);
        const int64_t at = side + g * m + r, half = 2 * side + 2 * g * m + r;
        scales[at] = scale, sums[at] = scale * float(a + b);
        starts_8[at] = -8 * (a + b), starts_128[at] = -128 * (a + b);
        starts_32[half] = -32 * a, starts_32[half + m] = -32 * b;
    }
    template <int OFFSET>
    const int32_t* starts(int64_t place) const {
        if constexpr (OFFSET == 8) return &starts_8[place];
        if constexpr (OFFSET == 128) return &starts_128[place];
        if constexpr (OFFSET == 32) return &starts_32[2 * place];
        return nullptr;
    }
};

// Rows in 8 bits with a scale for each GROUP. What that leaves of a group comes in 8 bits more, where it is much: where
// the square of the scale is COARSE times the mean of its row. wide: everywhere.
struct EightBits {
    static constexpr float COARSE = 4;
    int64_t groups = 0;           // G
    Groups all, rest;             // rest: of the groups in `which`
    std::vector<int64_t> which;   // side by side, in rising order
    std::vector<int64_t> begins;  // where those of a side begin

    void take(const float* from, int64_t M, int64_t K, bool wide) {
        groups = (K / GROUP + 1) / 2 * 2;
        all.resize(0), all.resize(M * groups);  // zeros past K
        rest.resize(M * groups);
        which.clear(), begins.assign(1, 0), scales.resize(SIDE * groups), coarse.resize(SIDE * groups);
        for (int64_t row = 0; row < M; row += SIDE) take_side(from + row * K, row, std::min(SIDE, M - row), K, wide);
    }

  private:
    std::vector<float> scales;  // of a side: (G, m)
    std::vector<char> coarse;

    void take_side(const float* from, int64_t row, int64_t m, int64_t K, bool wide) {
        const int64_t G = K / GROUP;
        for (int64_t r = 0; r < m; r++) {
            float squares = 0;
            for (int64_t g = 0; g < G; g++) {
                const float* x = from + r * K + g * GROUP;
                const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
                float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
                if (_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q)) most = NAN;  // a maximum passes over it
                const __m512 factor = _mm512_set1_ps(most > 0 ? 127 / most : 0);
                scales[g * m + r] = most / 127, squares += most / 127 * (most / 127);
                all.put(row * groups, g, m, r, _mm512_cvtps_epi32(_mm512_mul_ps(a, factor)),
                        _mm512_cvtps_epi32(_mm512_mul_ps(b, factor)), most / 127);
            }
            const float limit = COARSE * squares / float(G);
            for (int64_t g = 0; g < G; g++) coarse[g * m + r] = wide || scales[g * m + r] * scales[g * m + r] > limit;
        }
        const int64_t begin = begins.back();
        for (int64_t g = 0; g < G; g++) {
            if (std::find(&coarse[g * m], &coarse[(g + 1) * m], 1) == &coarse[(g + 1) * m]) continue;
            for (int64_t r = 0; r < m; r++) {
                const float scale = coarse[g * m + r] ? scales[g * m + r] : 0;
                const float* x = from + r * K + g * GROUP;
                auto left = [&](const float* y) {
                    const __m512 z = _mm512_loadu_ps(y), factor = _mm512_set1_ps(scale > 0 ? 1 / scale : 0);
                    const __m512 taken = _mm512_roundscale_ps(_mm512_mul_ps(z, factor), 0);
                    const __m512 less = _mm512_fnmadd_ps(taken, _mm512_set1_ps(scale), z);
                    return _mm512_cvtps_epi32(_mm512_mul_ps(less, _mm512_mul_ps(factor, _mm512_set1_ps(254))));
                };
                rest.put(begin * SIDE, int64_t(which.size()) - begin, m, r, left(x), left(x + 16), scale / 254);
            }
            which.push_back(g);
        }
        begins.push_back(int64_t(which.size()));
    }
};

// Adds the product of a group of M rows, which lies at `place` in x, and a group of a strip's block: total[m] in each lane.
template <class Format, int M>
inline void add_group(const uint8_t* p, int64_t group, const Groups& x, int64_t place, __m512 (&total)[M]) {
    const int32_t *numbers = &x.numbers[8 * place], *starts = x.starts<Format::OFFSET>(place);
    __m512i v[8], sum[M];
    Format::read(p, group, v);
    auto add = [&](int first, int last) {
        for (int i = first; i < last; i++)
            for (int m = 0; m < M; m++) sum[m] = _mm512_dpbusd_epi32(sum[m], v[i], _mm512_set1_epi32(numbers[i * M + m]));
    };
    if constexpr (Format::HALVES) {
        const __m512i first = Format::whole(p, group, 0), second = Format::whole(p, group, 1);
        __m512i before[M];
        for (int m = 0; m < M; m++) sum[m] = _mm512_set1_epi32(starts[m]);
        add(0, 4);
        for (int m = 0; m < M; m++) before[m] = _mm512_mullo_epi32(sum[m], first), sum[m] = _mm512_set1_epi32(starts[M + m]);
        add(4, 8);
        for (int m = 0; m < M; m++) sum[m] = _mm512_add_epi32(before[m], _mm512_mullo_epi32(sum[m], second));
    } else {
        for (int m = 0; m < M; m++) sum[m] = Format::OFFSET ? _mm512_set1_epi32(starts[m]) : _mm512_setzero_si512();
        add(0, 8);
    }
    const __m512 scale = Format::scale(p, group);
    for (int m = 0; m < M; m++) {
        const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[place + m]));
        total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[m]), factor, total[m]);
    }
    if constexpr (Format::LOWEST) {
        const __m512 lowest = Format::lowest(p, group);
        for (int m = 0; m < M; m++) total[m] = _mm512_fmadd_ps(lowest, _mm512_set1_ps(x.sums[place + m]), total[m]);
    }
}

// Adds the products of M rows from `row` on and a strip, over blocks `from` to `to`: out (M, LANES), its rows `width`
// apart. The rest comes after all.
template <class Format, int M>
void add_strip(const uint8_t* strip, const EightBits& x, int64_t row, int64_t from, int64_t to, float* out, int64_t width) {
    constexpr int64_t own = Format::NUMBERS / GROUP;
    __m512 total[M];
    for (int m = 0; m < M; m++) total[m] = _mm512_loadu_ps(out + m * width);
    for (int64_t b = from; b < to; b++) {
        const uint8_t* p = strip + b * Format::BYTES;
        for (int64_t i = 0; i < Format::BYTES; i += 64) ask(p + i);
        for (int64_t group = 0; group < own; group++)
            add_group<Format, M>(p, group, x.all, row * x.groups + (b * own + group) * M, total);
    }
    const int64_t begin = x.begins[row / SIDE], end = x.begins[row / SIDE + 1];
    const int64_t* which = x.which.data();
    for (int64_t i = std::lower_bound(which + begin, which + end, from * own) - which; i < end && which[i] < to * own; i++)
        add_group<Format, M>(strip + which[i] / own * Format::BYTES, which[i] % own, x.rest,
                             begin * SIDE + (i - begin) * M, total);
    for (int m = 0; m < M; m++) _mm512_storeu_ps(out + m * width, total[m]);
}

// M rows times `count` rows of a matrix from `first` on, a multiple of LANES: out (M, width). What lacks to a whole strip
// is written, too.
template <class Format>
void multiply_strips(const Matrix& w, int64_t first, int64_t count, const EightBits& x, int64_t M, float* out, int64_t width) {
    const int64_t bytes = strip_bytes<Format>(w.columns), blocks = bytes / Format::BYTES, step = NEAR / Format::NUMBERS;
    const uint8_t* strips = (const uint8_t*)w.numbers + first / LANES * bytes;
    const int64_t at_once = M <= SIDE ? LANES : count;  // for few rows the matrix is read from one end to the other
    for (int64_t m = 0; m < M; m++) std::fill_n(out + m * width, (count + LANES - 1) / LANES * LANES, 0.0f);
    for (int64_t begin = 0; begin < count; begin += at_once)
        for (int64_t from = 0; from < blocks; from += step)
            by_sides(M, [&](auto side, int64_t row) {
                for (int64_t n = begin; n < std::min(count, begin + at_once); n += LANES)
                    add_strip<Format, side>(strips + n / LANES * bytes, x, row, from, std::min(from + step, blocks),
                                            out + row * width + n, width);
            });
}
