// bfloat16 conversions, exp, horizontal sums and transposes in AVX-512.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "layout.h"

inline float to_float(bf16 x) {
    uint32_t bits = uint32_t(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
inline uint32_t bits(float x) {
    uint32_t y;
    std::memcpy(&y, &x, 4);
    return y;
}
inline __m512 to_floats(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline __m512 load_floats(const bf16* p) { return to_floats(_mm256_loadu_si256((const __m256i*)p)); }
inline void store_bf16(bf16* p, __m512 x) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x)); }
inline __m512bh load_pairs(const void* p) { return (__m512bh)_mm512_loadu_si512(p); }

inline __m512 exp512(__m512 x) {  // to 2 units in the last place
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 y = _mm512_set1_ps(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f})
        y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(c));
    return _mm512_scalef_ps(y, n);
}

// Horizontal sums of four vectors, with half the shuffles of four separate ones.
inline __m128 horizontal_sums(const __m512 (&v)[4]) {
    __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    __m512 sums = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

// Transpose a 16 x 16 matrix of 32-bit numbers in registers.
inline void transpose(__m512i (&r)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {  // r[i + 4 * q]: columns i, 4 + i, 8 + i, 12 + i of rows 4q to 4q + 3
        __m512i a = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88), d = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
        t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

inline __m512i load_32(const bf16* p) { return _mm512_loadu_si512(p); }

// Transpose up to 64 rows of K numbers into K / 2 lines of 64 pairs, the operand layout of dpbf16. Past the last row:
// repeat it.
inline void pack_pairs(const bf16* rows, int64_t stride, int64_t count, int64_t K, int32_t* pairs) {
    for (int64_t k = 0; k < K; k += 32)
        for (int64_t j = 0; j < 64; j += 16) {
            __m512i square[16];
            for (int64_t i = 0; i < 16; i++) square[i] = load_32(rows + (j + i < count ? j + i : count - 1) * stride + k);
            transpose(square);
            for (int64_t i = 0; i < 16; i++) _mm512_storeu_si512(pairs + (k / 2 + i) * 64 + j, square[i]);
        }
}
