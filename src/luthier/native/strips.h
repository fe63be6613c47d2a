// Products of int8 activations and a quantized matrix (blocks.h).
//
// For each row and GROUP, the product is summed in integers, scaled, and added to a float, always in this order. So
// results are bitwise equal whatever other rows there are, and however the work is divided among threads.
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

constexpr int64_t ROW_TILE = 6;       // rows that are multiplied at once: 6 sums, their 6 operands and 8 registers of weights
constexpr int64_t COLUMN_TILE = 1024;    // columns processed before the next tile of rows, so that both stay in the L1 cache
constexpr int64_t PREFETCH_DISTANCE = 4096;  // bytes

inline void prefetch(const void* p) { _mm_prefetch((const char*)p + PREFETCH_DISTANCE, _MM_HINT_T0); }

// Call f with the number of rows as a compile-time constant: f(integral_constant<int, M>).
template <class F>
void with_rows(int64_t m, F&& f) {
    switch (m) {
        case 1: return f(std::integral_constant<int, 1>());
        case 2: return f(std::integral_constant<int, 2>());
        case 3: return f(std::integral_constant<int, 3>());
        case 4: return f(std::integral_constant<int, 4>());
        case 5: return f(std::integral_constant<int, 5>());
        default: return f(std::integral_constant<int, ROW_TILE>());
    }
}

// For each tile of up to ROW_TILE of M rows: f(integral_constant, first row).
template <class F>
void for_row_tiles(int64_t M, F&& f) {
    for (int64_t row = 0; row < M; row += ROW_TILE)
        with_rows(std::min<int64_t>(ROW_TILE, M - row), [&](auto tile) { f(tile, row); });
}

// Groups of int8 values with their scales and sums. The m rows of a tile are interleaved.
struct QuantizedGroups {
    std::vector<int32_t> values;                          // four int8 values each, (8, m) for each group
    std::vector<float> scales, sums;                       // (m); sums: scaled sums of the values
    std::vector<int32_t> offset_terms_8, offset_terms_128, offset_terms_32;  // (m), (m), (2, m): -OFFSET * sum of values

    void resize(int64_t n) {
        values.resize(8 * n), scales.resize(n), sums.resize(n);
        offset_terms_8.resize(n), offset_terms_128.resize(n), offset_terms_32.resize(2 * n);
    }
    // Set group g, row r, of a tile of m rows that begins at index `tile`.
    void set(int64_t tile, int64_t g, int64_t m, int64_t r, __m512i first, __m512i second, float scale) {
        alignas(64) int32_t four[8];
        const __m128i low = _mm512_cvtsepi32_epi8(first), high = _mm512_cvtsepi32_epi8(second);
        _mm_store_si128((__m128i*)four, low);
        _mm_store_si128((__m128i*)(four + 4), high);
        for (int64_t i = 0; i < 8; i++) values[8 * tile + (8 * g + i) * m + r] = four[i];
        const int32_t a = sum(low), b = sum(high);
        const int64_t at = tile + g * m + r, half = 2 * tile + 2 * g * m + r;
        scales[at] = scale, sums[at] = scale * float(a + b);
        offset_terms_8[at] = -8 * (a + b), offset_terms_128[at] = -128 * (a + b);
        offset_terms_32[half] = -32 * a, offset_terms_32[half + m] = -32 * b;
    }
    static int32_t sum(__m128i bytes) {  // sad_epu8 sums unsigned bytes
        const __m128i sums = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(char(128))), _mm_setzero_si128());
        return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 16 * 128;
    }
    template <int OFFSET>
    const int32_t* offset_terms(int64_t place) const {
        if constexpr (OFFSET == 8) return offset_terms_8.data() + place;
        if constexpr (OFFSET == 128) return offset_terms_128.data() + place;
        if constexpr (OFFSET == 32) return offset_terms_32.data() + 2 * place;
        return nullptr;
    }
};

// Rows quantized to int8 with a scale for each GROUP. Where the error is large (the squared scale exceeds COARSE times
// the row's mean), the residual is quantized to 8 more bits. wide: for all groups.
struct Int8Rows {
    static constexpr float COARSE = 4;
    int64_t groups = 0;           // G
    QuantizedGroups all, residual;             // residual: of the groups in `residual_groups`
    std::vector<int64_t> residual_groups;  // ascending within each tile
    std::vector<int64_t> tile_begins;      // index in `residual_groups` at which each tile begins

    void set_rows(const float* from, int64_t M, int64_t K, bool wide) {
        groups = (K / GROUP + 1) / 2 * 2;
        all.resize(0), all.resize(M * groups);  // zeros past K
        residual.resize(M * groups);
        residual_groups.clear(), tile_begins.assign(1, 0), scales.resize(ROW_TILE * groups), coarse.resize(ROW_TILE * groups);
        for (int64_t row = 0; row < M; row += ROW_TILE) quantize_tile(from + row * K, row, std::min(ROW_TILE, M - row), K, wide);
    }

  private:
    std::vector<float> scales;  // of a tile: (G, m)
    std::vector<char> coarse;

    void quantize_tile(const float* from, int64_t row, int64_t m, int64_t K, bool wide) {
        const int64_t G = K / GROUP;
        for (int64_t r = 0; r < m; r++) {
            float squares = 0;
            for (int64_t g = 0; g < G; g++) {
                const float* x = from + r * K + g * GROUP;
                const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
                float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
                if (_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q)) most = NAN;  // max_ps ignores NaN
                const __m512 factor = _mm512_set1_ps(most > 0 ? 127 / most : 0);
                scales[g * m + r] = most / 127, squares += most / 127 * (most / 127);
                all.set(row * groups, g, m, r, _mm512_cvtps_epi32(_mm512_mul_ps(a, factor)),
                        _mm512_cvtps_epi32(_mm512_mul_ps(b, factor)), most / 127);
            }
            const float limit = COARSE * squares / float(G);
            for (int64_t g = 0; g < G; g++) coarse[g * m + r] = wide || scales[g * m + r] * scales[g * m + r] > limit;
        }
        const int64_t begin = tile_begins.back();
        for (int64_t g = 0; g < G; g++) {
            if (std::find(&coarse[g * m], &coarse[(g + 1) * m], 1) == &coarse[(g + 1) * m]) continue;
            for (int64_t r = 0; r < m; r++) {
                const float scale = coarse[g * m + r] ? scales[g * m + r] : 0;
                const float* x = from + r * K + g * GROUP;
                auto quantized_error = [&](const float* y) {
                    const __m512 z = _mm512_loadu_ps(y), factor = _mm512_set1_ps(scale > 0 ? 1 / scale : 0);
                    const __m512 rounded = _mm512_roundscale_ps(_mm512_mul_ps(z, factor), 0);
                    const __m512 error = _mm512_fnmadd_ps(rounded, _mm512_set1_ps(scale), z);
                    return _mm512_cvtps_epi32(_mm512_mul_ps(error, _mm512_mul_ps(factor, _mm512_set1_ps(254))));
                };
                residual.set(begin * ROW_TILE, int64_t(residual_groups.size()) - begin, m, r, quantized_error(x), quantized_error(x + 16), scale / 254);
            }
            residual_groups.push_back(g);
        }
        tile_begins.push_back(int64_t(residual_groups.size()));
    }
};

// Pointers to a group of M rows.
template <class Format, int M>
struct GroupCursor {
    const int32_t *values, *offset_terms;
    const float *scales, *sums;
    GroupCursor(const QuantizedGroups& x, int64_t place)
        : values(x.values.data() + 8 * place), offset_terms(x.offset_terms<Format::OFFSET>(place)), scales(x.scales.data() + place),
          sums(x.sums.data() + place) {}
    void next() { values += 8 * M, offset_terms += Format::HALF_SCALES ? 2 * M : M, scales += M, sums += M; }
};

// Call f(0) to f(M - 1) with compile-time constants: arrays stay in registers only if every index is constant.
template <int M, class F>
ALWAYS_INLINE inline void unroll(F&& f) {
    [&]<int... m>(std::integer_sequence<int, m...>) ALWAYS_INLINE {
        (f(std::integral_constant<int, m>()), ...);
    }(std::make_integer_sequence<int, M>());
}

// Add the product of a group of M rows and a group of a strip's block to total[m], one matrix row per lane.
template <class Format, int M>
ALWAYS_INLINE inline void add_group(const uint8_t* p, int64_t group, const GroupCursor<Format, M>& x, __m512 (&total)[M]) {
    __m512i v[8], sum[M];
    Format::read(p, group, v);
    auto add = [&](auto i) ALWAYS_INLINE {
        unroll<M>([&](auto m) ALWAYS_INLINE {
            sum[m] = _mm512_dpbusd_epi32(sum[m], v[i], _mm512_set1_epi32(x.values[i * M + m]));
        });
    };
    if constexpr (Format::HALF_SCALES) {
        const __m512i first = Format::int_scale(p, group, 0), second = Format::int_scale(p, group, 1);
        __m512i before[M];
        unroll<M>([&](auto m) ALWAYS_INLINE { sum[m] = _mm512_set1_epi32(x.offset_terms[m]); });
        unroll<4>(add);
        unroll<M>([&](auto m) ALWAYS_INLINE {
            before[m] = _mm512_mullo_epi32(sum[m], first), sum[m] = _mm512_set1_epi32(x.offset_terms[M + m]);
        });
        unroll<4>([&](auto i) ALWAYS_INLINE { add(std::integral_constant<int, 4 + i>()); });
        unroll<M>([&](auto m) ALWAYS_INLINE { sum[m] = _mm512_add_epi32(before[m], _mm512_mullo_epi32(sum[m], second)); });
    } else {
        unroll<M>([&](auto m) ALWAYS_INLINE {
            sum[m] = Format::OFFSET ? _mm512_set1_epi32(x.offset_terms[m]) : _mm512_setzero_si512();
        });
        unroll<8>(add);
    }
    const __m512 scale = Format::scale(p, group);
    unroll<M>([&](auto m) ALWAYS_INLINE {
        const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[m]));
        total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[m]), factor, total[m]);
    });
    if constexpr (Format::HAS_MINIMUM) {
        const __m512 minimum = Format::minimum(p, group);
        unroll<M>([&](auto m) ALWAYS_INLINE { total[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x.sums[m]), total[m]); });
    }
}

// Add the products of M rows from `row` on and a strip, over blocks `from` to `to`: out (M, LANES) with row stride
// `width`. Residuals are added last.
template <class Format, int M>
void add_strip(const uint8_t* strip, const Int8Rows& x, int64_t row, int64_t from, int64_t to, float* out, int64_t width) {
    constexpr int64_t groups_per_block = Format::VALUES / GROUP;
    __m512 total[M];
    unroll<M>([&](auto m) ALWAYS_INLINE { total[m] = _mm512_loadu_ps(out + m * width); });
    GroupCursor<Format, M> at(x.all, row * x.groups + from * groups_per_block * M);
    for (int64_t b = from; b < to; b++) {
        const uint8_t* p = strip + b * Format::BYTES;
        for (int64_t i = 0; i < Format::BYTES; i += 64) prefetch(p + i);
        for (int64_t group = 0; group < groups_per_block; group++, at.next()) add_group<Format, M>(p, group, at, total);
    }
    const int64_t begin = x.tile_begins[row / ROW_TILE], end = x.tile_begins[row / ROW_TILE + 1];
    const int64_t* residual_groups = x.residual_groups.data();
    for (int64_t i = std::lower_bound(residual_groups + begin, residual_groups + end, from * groups_per_block) - residual_groups; i < end && residual_groups[i] < to * groups_per_block; i++)
        add_group<Format, M>(strip + residual_groups[i] / groups_per_block * Format::BYTES, residual_groups[i] % groups_per_block,
                             GroupCursor<Format, M>(x.residual, begin * ROW_TILE + (i - begin) * M), total);
    unroll<M>([&](auto m) ALWAYS_INLINE { _mm512_storeu_ps(out + m * width, total[m]); });
}

// M rows times `count` rows of a matrix from `first` on (a multiple of LANES): out (M, width). Always writes whole
// strips.
template <class Format>
void multiply_strips(const Matrix& w, int64_t first, int64_t count, const Int8Rows& x, int64_t M, float* out, int64_t width) {
    const int64_t bytes = strip_bytes<Format>(w.columns), blocks = bytes / Format::BYTES, step = COLUMN_TILE / Format::VALUES;
    const uint8_t* strips = (const uint8_t*)w.data + first / LANES * bytes;
    const int64_t at_once = M <= ROW_TILE ? LANES : count;  // for few rows, the matrix is read sequentially
    for (int64_t m = 0; m < M; m++) std::fill_n(out + m * width, (count + LANES - 1) / LANES * LANES, 0.0f);
    for (int64_t begin = 0; begin < count; begin += at_once)
        for (int64_t from = 0; from < blocks; from += step)
            for_row_tiles(M, [&](auto tile, int64_t row) {
                for (int64_t n = begin; n < std::min(count, begin + at_once); n += LANES)
                    add_strip<Format, tile>(strips + n / LANES * bytes, x, row, from, std::min(from + step, blocks),
                                            out + row * width + n, width);
            });
}
