// Causal attention in bfloat16 over the cached keys and values of one head (arXiv 1706.03762).
//
// A single query is bound by reading each key once. Many queries share what is read: they process keys in blocks with
// an online softmax (FlashAttention, arXiv 2205.14135), so that scores are never stored for a whole sequence.
//
// Shapes: R rows of queries, D head_dim.
#pragma once
#include <cmath>

#include "matrix.h"

// One query over `count` keys: out (D).
inline void attend(const bf16* q, const bf16* keys, const bf16* values, int64_t count, int64_t D, float scale,
                   std::vector<float>& scores, float* out) {
    scores.resize((count + 15) / 16 * 16);
    for (int64_t t = 0; t < count; t += 4) {
        __m512 sum[4] = {};
        for (int64_t d = 0; d < D; d += 32)
            for (int64_t i = 0; i < 4; i++)  // past the end: repeat the last key
                sum[i] = _mm512_dpbf16_ps(sum[i], load_pairs(q + d), load_pairs(keys + std::min(t + i, count - 1) * D + d));
        _mm_storeu_ps(&scores[t], _mm_mul_ps(horizontal_sums(sum), _mm_set1_ps(scale)));
    }
    std::fill(scores.begin() + count, scores.end(), -INFINITY);
    __m512 top = _mm512_set1_ps(-INFINITY);
    for (int64_t t = 0; t < count; t += 16) top = _mm512_max_ps(top, _mm512_loadu_ps(&scores[t]));
    const __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    __m512 sum = _mm512_setzero_ps();
    for (int64_t t = 0; t < count; t += 16) {
        __mmask16 mask = count - t >= 16 ? 0xffff : __mmask16((1 << (count - t)) - 1);
        __m512 e = exp512(_mm512_sub_ps(_mm512_loadu_ps(&scores[t]), max));
        e = _mm512_maskz_mov_ps(mask, e);
        _mm512_storeu_ps(&scores[t], e);
        sum = _mm512_add_ps(sum, e);
    }
    const __m512 inverse_sum = _mm512_set1_ps(1 / _mm512_reduce_add_ps(sum));
    for (int64_t d = 0; d < D; d += 32) {
        __m512 sums[4] = {};  // two independent accumulators for even and odd keys, to hide the latency of additions
        auto add = [&](int64_t t, __m512& first, __m512& second) {
            const __m512 weight = _mm512_set1_ps(scores[t]);
            first = _mm512_fmadd_ps(weight, load_floats(values + t * D + d), first);
            second = _mm512_fmadd_ps(weight, load_floats(values + t * D + d + 16), second);
        };
        for (int64_t t = 0; t + 1 < count; t += 2) add(t, sums[0], sums[1]), add(t + 1, sums[2], sums[3]);
        if (count % 2) add(count - 1, sums[0], sums[1]);
        _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_add_ps(sums[0], sums[2]), inverse_sum));
        _mm512_storeu_ps(out + d + 16, _mm512_mul_ps(_mm512_add_ps(sums[1], sums[3]), inverse_sum));
    }
}

// Query rows that share keys. last_key: the last key visible to each row, non-decreasing from row to row.
class BlockedAttention {
  public:
    std::vector<bf16> queries;   // (R, D)
    std::vector<int64_t> last_key;   // (R)

    void begin(int64_t rows, int64_t head_dim) {
        R = rows, D = head_dim;
        queries.resize(R * D), last_key.resize(R), row_max.assign(R, -INFINITY);
        sums.assign(R * 16, 0), accumulators.assign(R * D, 0);
        key_pairs.resize(D / 2 * KEYS), value_pairs.resize(KEYS / 2 * D);
    }

    void run(const bf16* keys, const bf16* values, float scale) {
        const int64_t end = last_key[R - 1] + 1;
        int64_t row = 0;
        for (int64_t t = 0; t < end; t += KEYS) {
            const int64_t count = std::min<int64_t>(KEYS, end - t);
            pack_pairs(keys + t * D, D, count, D, key_pairs.data());
            pack_value_pairs(values + t * D, count);
            while (last_key[row] < t) row++;  // these rows see no key of this block or of later ones
            for_row_tiles(R - row, [&](auto tile, int64_t r) { attend_block<tile>(row + r, t, count, scale); });
        }
    }

    void write(int64_t row, float* out) const {
        const __m512 inverse_sum = _mm512_set1_ps(1 / _mm512_reduce_add_ps(_mm512_loadu_ps(&sums[row * 16])));
        for (int64_t d = 0; d < D; d += 16)
            _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_loadu_ps(&accumulators[row * D + d]), inverse_sum));
    }

  private:
    static constexpr int64_t KEYS = 64;  // keys of a block
    int64_t R = 0, D = 0;
    std::vector<float> row_max, sums, accumulators;  // (R), (R, 16), (R, D)
    std::vector<int32_t> key_pairs, value_pairs;

    // Interleave the values of adjacent keys into (KEYS / 2, D) pairs. Past the last key: zeros.
    void pack_value_pairs(const bf16* values, int64_t count) {
        alignas(64) bf16 first[32], second[32];
        for (int i = 0; i < 32; i++) first[i] = bf16(i / 2 + i % 2 * 32), second[i] = bf16(first[i] + 16);
        const __m512i low = _mm512_load_si512(first), high = _mm512_load_si512(second);
        for (int64_t t = 0; t < KEYS; t += 2)
            for (int64_t d = 0; d < D; d += 32) {
                __m512i a = t < count ? load_32(values + t * D + d) : _mm512_setzero_si512();
                __m512i b = t + 1 < count ? load_32(values + (t + 1) * D + d) : _mm512_setzero_si512();
                int32_t* to = &value_pairs[t / 2 * D + d];
                _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
                _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(a, high, b));
            }
    }

    template <int M>
    void attend_block(int64_t row, int64_t t, int64_t count, float scale) {
        __m512 scores[M][4] = {};
        add_products(&queries[row * D], D, 0, D, scores, PackedPairs<4>{key_pairs.data(), KEYS});
        alignas(64) bf16 weights[M * KEYS];
        for (int m = 0; m < M; m++) {
            const int64_t seen = std::min(count, last_key[row + m] + 1 - t);
            const __mmask64 mask = seen >= 64 ? ~0ull : (1ull << seen) - 1;
            __m512 top = _mm512_set1_ps(-INFINITY);
            for (int j = 0; j < 4; j++) {
                scores[m][j] = _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), __mmask16(mask >> (16 * j)), scores[m][j],
                                                  _mm512_set1_ps(scale));
                top = _mm512_max_ps(top, scores[m][j]);
            }
            const float before = row_max[row + m], now = std::max(before, _mm512_reduce_max_ps(top));
            row_max[row + m] = now;
            __m512 sum = _mm512_loadu_ps(&sums[(row + m) * 16]);
            if (now > before) {  // rescale what was accumulated with a smaller maximum
                const __m512 less = exp512(_mm512_set1_ps(before - now));
                sum = _mm512_mul_ps(sum, less);
                for (int64_t d = 0; d < D; d += 16) {
                    float* y = &accumulators[(row + m) * D + d];
                    _mm512_storeu_ps(y, _mm512_mul_ps(_mm512_loadu_ps(y), less));
                }
            }
            for (int j = 0; j < 4; j++) {
                __m512 e = exp512(_mm512_sub_ps(scores[m][j], _mm512_set1_ps(now)));
                e = _mm512_maskz_mov_ps(__mmask16(mask >> (16 * j)), e);
                sum = _mm512_add_ps(sum, e);
                store_bf16(weights + m * KEYS + 16 * j, e);
            }
            _mm512_storeu_ps(&sums[(row + m) * 16], sum);
        }
        const int64_t pairs = (count + 1) / 2 * 2;
        for (int64_t d = 0; d < D; d += 32)
            add_to<M, 2>(weights, KEYS, 0, pairs, &accumulators[row * D + d], D, PackedPairs<2>{value_pairs.data() + d, D});
    }
};
