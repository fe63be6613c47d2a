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
#include <utility>
#include <vector>

#include "blocks.h"

#define ALWAYS_INLINE __attribute__((always_inline))

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
        const __m128i low = _mm512_cvtsepi32_epi8(first), high = _mm512_cvtsepi32_epi8(second);
        _mm_store_si128((__m128i*)four, low);
        _mm_store_si128((__m128i*)(four + 4), high);
        for (int64_t i = 0; i < 8; i++) numbers[8 * side + (8 * g + i) * m + r] = four[i];
        const int32_t a = sum(low), b = sum(high);
        const int64_t at = side + g * m + r, half = 2 * side + 2 * g * m + r;
        scales[at] = scale, sums[at] = scale * float(a + b);
        starts_8[at] = -8 * (a + b), starts_128[at] = -128 * (a + b);
        starts_32[half] = -32 * a, starts_32[half + m] = -32 * b;
    }
    static int32_t sum(__m128i bytes) {  // the processor adds unsigned ones
        const __m128i sums = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(char(128))), _mm_setzero_si128());
        return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 16 * 128;
    }
    template <int OFFSET>
    const int32_t* starts(int64_t place) const {
        if constexpr (OFFSET == 8) return starts_8.data() + place;
        if constexpr (OFFSET == 128) return starts_128.data() + place;
        if constexpr (OFFSET == 32) return starts_32.data() + 2 * place;
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

// Where a group of M rows lies.
template <class Format, int M>
struct At {
    const int32_t *numbers, *starts;
    const float *scales, *sums;
    At(const Groups& x, int64_t place)
        : numbers(x.numbers.data() + 8 * place), starts(x.starts<Format::OFFSET>(place)), scales(x.scales.data() + place),
          sums(x.sums.data() + place) {}
    void next() { numbers += 8 * M, starts += Format::HALVES ? 2 * M : M, scales += M, sums += M; }
};

// f(0) to f(M - 1), each a constant: a compiler keeps an array in registers only where it sees every index.
template <int M, class F>
ALWAYS_INLINE inline void each(F&& f) {
    [&]<int... m>(std::integer_sequence<int, m...>) ALWAYS_INLINE {
        (f(std::integral_constant<int, m>()), ...);
    }(std::make_integer_sequence<int, M>());
}

// Adds the product of a group of M rows and a group of a strip's block: total[m] in each lane.
template <class Format, int M>
ALWAYS_INLINE inline void add_group(const uint8_t* p, int64_t group, const At<Format, M>& x, __m512 (&total)[M]) {
    __m512i v[8], sum[M];
    Format::read(p, group, v);
    auto add = [&](auto i) ALWAYS_INLINE {
        each<M>([&](auto m) ALWAYS_INLINE {
            sum[m] = _mm512_dpbusd_epi32(sum[m], v[i], _mm512_set1_epi32(x.numbers[i * M + m]));
        });
    };
    if constexpr (Format::HALVES) {
        const __m512i first = Format::whole(p, group, 0), second = Format::whole(p, group, 1);
        __m512i before[M];
        each<M>([&](auto m) ALWAYS_INLINE { sum[m] = _mm512_set1_epi32(x.starts[m]); });
        each<4>(add);
        each<M>([&](auto m) ALWAYS_INLINE {
            before[m] = _mm512_mullo_epi32(sum[m], first), sum[m] = _mm512_set1_epi32(x.starts[M + m]);
        });
        each<4>([&](auto i) ALWAYS_INLINE { add(std::integral_constant<int, 4 + i>()); });
        each<M>([&](auto m) ALWAYS_INLINE { sum[m] = _mm512_add_epi32(before[m], _mm512_mullo_epi32(sum[m], second)); });
    } else {
        each<M>([&](auto m) ALWAYS_INLINE {
            sum[m] = Format::OFFSET ? _mm512_set1_epi32(x.starts[m]) : _mm512_setzero_si512();
        });
        each<8>(add);
    }
    const __m512 scale = Format::scale(p, group);
    each<M>([&](auto m) ALWAYS_INLINE {
        const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[m]));
        total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[m]), factor, total[m]);
    });
    if constexpr (Format::LOWEST) {
        const __m512 lowest = Format::lowest(p, group);
        each<M>([&](auto m) ALWAYS_INLINE { total[m] = _mm512_fmadd_ps(lowest, _mm512_set1_ps(x.sums[m]), total[m]); });
    }
}

// Adds the products of M rows from `row` on and a strip, over blocks `from` to `to`: out (M, LANES), its rows `width`
// apart. The rest comes after all.
template <class Format, int M>
void add_strip(const uint8_t* strip, const EightBits& x, int64_t row, int64_t from, int64_t to, float* out, int64_t width) {
    constexpr int64_t own = Format::NUMBERS / GROUP;
    __m512 total[M];
    each<M>([&](auto m) ALWAYS_INLINE { total[m] = _mm512_loadu_ps(out + m * width); });
    At<Format, M> at(x.all, row * x.groups + from * own * M);
    for (int64_t b = from; b < to; b++) {
        const uint8_t* p = strip + b * Format::BYTES;
        for (int64_t i = 0; i < Format::BYTES; i += 64) ask(p + i);
        for (int64_t group = 0; group < own; group++, at.next()) add_group<Format, M>(p, group, at, total);
    }
    const int64_t begin = x.begins[row / SIDE], end = x.begins[row / SIDE + 1];
    const int64_t* which = x.which.data();
    for (int64_t i = std::lower_bound(which + begin, which + end, from * own) - which; i < end && which[i] < to * own; i++)
        add_group<Format, M>(strip + which[i] / own * Format::BYTES, which[i] % own,
                             At<Format, M>(x.rest, begin * SIDE + (i - begin) * M), total);
    each<M>([&](auto m) ALWAYS_INLINE { _mm512_storeu_ps(out + m * width, total[m]); });
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
