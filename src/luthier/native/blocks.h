// Weights in GGUF's block formats (llama.cpp's ggml-common.h). In memory, LANES rows are interleaved into a strip, so
// that each vector lane is a row: the same bits as in the file, in another order.
//
// A format has VALUES of each row in a block of BYTES, made of file blocks of FILE_VALUES in FILE_BYTES. A weight is
// scale * (value - OFFSET) + minimum; GROUP values share scale and minimum. HALF_SCALES: each half of a group has an
// integer factor of the scale.
//
//   pack(from, groups, lane, to)  one row's part of a block; a row's last file block may have fewer groups
//   read(p, group, v)             v[i]: values 4 * i to 4 * i + 3 of a group, unsigned; each row in its lane
#pragma once
#include "layout.h"
#include "bfloat16.h"

inline __m512 load_half_floats(const uint8_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline __m128i load_16(const uint8_t* p) { return _mm_loadu_si128((const __m128i*)p); }

// A file's 16 bytes, value i in the low nibble and i + 16 in the high one, four bytes to each line of a strip.
inline void pack_nibbles(const uint8_t* from, int64_t lane, uint8_t* to) {
    for (int64_t i = 0; i < 4; i++) std::memcpy(to + 64 * i + 4 * lane, from + 4 * i, 4);
}
inline void read_nibbles(const uint8_t* p, __m512i (&v)[8]) {
    const __m512i mask = _mm512_set1_epi8(15);
    for (int i = 0; i < 4; i++) {
        const __m512i both = _mm512_loadu_si512(p + 64 * i);
        v[i] = _mm512_and_si512(both, mask);
        v[i + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
    }
}

struct Blocks_Q4_0 {  // in a file: scale, 16 bytes of nibbles
    static constexpr int64_t FILE_VALUES = 32, FILE_BYTES = 18, VALUES = 64, BYTES = 576;
    static constexpr int OFFSET = 8;
    static constexpr bool HAS_MINIMUM = false, HALF_SCALES = false;
    static void pack(const uint8_t* from, int64_t groups, int64_t lane, uint8_t* to) {
        for (int64_t g = 0; g < groups; g++, from += FILE_BYTES) {
            std::memcpy(to + 32 * g + 2 * lane, from, 2);
            pack_nibbles(from + 2, lane, to + 64 + 256 * g);
        }
    }
    static void read(const uint8_t* p, int64_t group, __m512i (&v)[8]) { read_nibbles(p + 64 + 256 * group, v); }
    static __m512 scale(const uint8_t* p, int64_t group) { return load_half_floats(p + 32 * group); }
};

struct Blocks_Q4_1 {  // in a file: scale, minimum, 16 bytes of nibbles
    static constexpr int64_t FILE_VALUES = 32, FILE_BYTES = 20, VALUES = 64, BYTES = 640;
    static constexpr int OFFSET = 0;
    static constexpr bool HAS_MINIMUM = true, HALF_SCALES = false;
    static void pack(const uint8_t* from, int64_t groups, int64_t lane, uint8_t* to) {
        for (int64_t g = 0; g < groups; g++, from += FILE_BYTES) {
            std::memcpy(to + 32 * g + 2 * lane, from, 2);
            std::memcpy(to + 64 + 32 * g + 2 * lane, from + 2, 2);
            pack_nibbles(from + 4, lane, to + 128 + 256 * g);
        }
    }
    static void read(const uint8_t* p, int64_t group, __m512i (&v)[8]) { read_nibbles(p + 128 + 256 * group, v); }
    static __m512 scale(const uint8_t* p, int64_t group) { return load_half_floats(p + 32 * group); }
    static __m512 minimum(const uint8_t* p, int64_t group) { return load_half_floats(p + 64 + 32 * group); }
};

struct Blocks_Q8_0 {  // in a file: scale, 32 signed bytes; stored unsigned, as one operand of dpbusd must be
    static constexpr int64_t FILE_VALUES = 32, FILE_BYTES = 34, VALUES = 64, BYTES = 1088;
    static constexpr int OFFSET = 128;
    static constexpr bool HAS_MINIMUM = false, HALF_SCALES = false;
    static void pack(const uint8_t* from, int64_t groups, int64_t lane, uint8_t* to) {
        for (int64_t g = 0; g < groups; g++, from += FILE_BYTES) {
            std::memcpy(to + 32 * g + 2 * lane, from, 2);
            for (int64_t i = 0; i < 32; i++) to[64 + 512 * g + i / 4 * 64 + 4 * lane + i % 4] = from[2 + i] ^ 128;
        }
    }
    static void read(const uint8_t* p, int64_t group, __m512i (&v)[8]) {
        for (int i = 0; i < 8; i++) v[i] = _mm512_loadu_si512(p + 64 + 512 * group + 64 * i);
    }
    static __m512 scale(const uint8_t* p, int64_t group) { return load_half_floats(p + 32 * group); }
};

// In a file: scale, scale of the minimum, 6-bit integer factors of both for each of 8 groups in 12 bytes, and 32 bytes of
// nibbles for every two groups. In a strip, a factor takes a byte and the nibbles are arranged as in Q4_0.
struct Blocks_Q4_K {
    static constexpr int64_t FILE_VALUES = 256, FILE_BYTES = 144, VALUES = 256, BYTES = 320 + 2048;
    static constexpr int OFFSET = 0;
    static constexpr bool HAS_MINIMUM = true, HALF_SCALES = false;
    static void pack(const uint8_t* from, int64_t, int64_t lane, uint8_t* to) {
        std::memcpy(to + 2 * lane, from, 2);
        std::memcpy(to + 32 + 2 * lane, from + 2, 2);
        const uint8_t *six = from + 4, *values = from + 16;
        for (int64_t g = 0; g < 8; g++) {
            const bool late = g >= 4;
            to[64 + 16 * g + lane] = late ? (six[g + 4] & 15) | (six[g - 4] >> 6 << 4) : six[g] & 63;
            to[192 + 16 * g + lane] = late ? (six[g + 4] >> 4) | (six[g] >> 6 << 4) : six[g + 4] & 63;
            uint8_t nibbles[16];
            const uint8_t* half = values + g / 2 * 32;
            for (int64_t i = 0; i < 16; i++)
                nibbles[i] = g % 2 ? (half[i] >> 4) | (half[i + 16] & 0xf0) : (half[i] & 15) | uint8_t(half[i + 16] << 4);
            pack_nibbles(nibbles, lane, to + 320 + 256 * g);
        }
    }
    static void read(const uint8_t* p, int64_t group, __m512i (&v)[8]) { read_nibbles(p + 320 + 256 * group, v); }
    static __m512 int_scale(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_16(p))); }
    static __m512 scale(const uint8_t* p, int64_t group) {
        return _mm512_mul_ps(load_half_floats(p), int_scale(p + 64 + 16 * group));
    }
    static __m512 minimum(const uint8_t* p, int64_t group) {
        const __m512 negative = _mm512_xor_ps(load_half_floats(p + 32), _mm512_set1_ps(-0.0f));
        return _mm512_mul_ps(negative, int_scale(p + 192 + 16 * group));
    }
};

// In a file: 128 bytes with the low 4 bits, 64 with the high 2, 16 signed integer factors, scale. In a strip, the low
// bits are arranged as in Q4_0; of half a group, byte j of 4 has the high bits of values j, j + 4, j + 8 and j + 12.
struct Blocks_Q6_K {
    static constexpr int64_t FILE_VALUES = 256, FILE_BYTES = 210, VALUES = 256, BYTES = 320 + 2048 + 1024;
    static constexpr int OFFSET = 32;
    static constexpr bool HAS_MINIMUM = false, HALF_SCALES = true;
    static void pack(const uint8_t* from, int64_t, int64_t lane, uint8_t* to) {
        std::memcpy(to + 2 * lane, from + 208, 2);
        for (int64_t i = 0; i < 16; i++) to[64 + 16 * i + lane] = from[192 + i];
        for (int64_t g = 0; g < 8; g++) {
            uint8_t low[32], high[32];
            for (int64_t i = 0; i < 32; i++) {  // values g * 32 + i: four groups share 64 bytes of low and 32 of high bits
                const int64_t quarter = g % 4;
                low[i] = from[g / 4 * 64 + quarter % 2 * 32 + i] >> quarter / 2 * 4 & 15;
                high[i] = from[128 + g / 4 * 32 + i] >> 2 * quarter & 3;
            }
            for (int64_t i = 0; i < 16; i++) low[i] |= low[i + 16] << 4;
            pack_nibbles(low, lane, to + 320 + 256 * g);
            for (int64_t half = 0; half < 2; half++)
                for (int64_t j = 0; j < 4; j++) {
                    const uint8_t* h = high + 16 * half + j;
                    const int bits = h[0] | h[4] << 2 | h[8] << 4 | h[12] << 6;
                    to[2368 + 128 * g + 64 * half + 4 * lane + j] = uint8_t(bits);
                }
        }
    }
    static void read(const uint8_t* p, int64_t group, __m512i (&v)[8]) {
        read_nibbles(p + 320 + 256 * group, v);
        const __m512i mask = _mm512_set1_epi8(0x30);
        for (int half = 0; half < 2; half++) {
            const __m512i high = _mm512_loadu_si512(p + 2368 + 128 * group + 64 * half);
            __m512i* u = v + 4 * half;
            u[0] = _mm512_or_si512(u[0], _mm512_and_si512(_mm512_slli_epi16(high, 4), mask));
            u[1] = _mm512_or_si512(u[1], _mm512_and_si512(_mm512_slli_epi16(high, 2), mask));
            u[2] = _mm512_or_si512(u[2], _mm512_and_si512(high, mask));
            u[3] = _mm512_or_si512(u[3], _mm512_and_si512(_mm512_srli_epi16(high, 2), mask));
        }
    }
    static __m512 scale(const uint8_t* p, int64_t) { return load_half_floats(p); }
    static __m512i int_scale(const uint8_t* p, int64_t group, int64_t half) {
        return _mm512_cvtepi8_epi32(load_16(p + 64 + 32 * group + 16 * half));
    }
};

// Call f(Blocks_...()) with the format of a kind; does nothing for other kinds.
template <class F>
void with_format(int64_t kind, F&& f) {
    switch (kind) {
        case Q4_0: return f(Blocks_Q4_0());
        case Q4_1: return f(Blocks_Q4_1());
        case Q8_0: return f(Blocks_Q8_0());
        case Q4_K: return f(Blocks_Q4_K());
        case Q6_K: return f(Blocks_Q6_K());
    }
}

inline bool in_blocks(int64_t kind) { return kind != BF16; }

// Bytes of a strip with this many columns.
template <class Format>
int64_t strip_bytes(int64_t columns) {
    return (columns + Format::VALUES - 1) / Format::VALUES * Format::BYTES;
}

// Pack rows of a file, each of columns / FILE_VALUES blocks, into the strips of a matrix from row `first` on (a multiple
// of LANES). Incomplete strips and blocks keep their zeros.
template <class Format>
void pack_rows(const uint8_t* rows, int64_t first, int64_t count, int64_t columns, uint8_t* strips) {
    const int64_t row_bytes = columns / Format::FILE_VALUES * Format::FILE_BYTES, groups = columns / GROUP;
    constexpr int64_t groups_per_block = Format::VALUES / GROUP, file_bytes = Format::VALUES / Format::FILE_VALUES * Format::FILE_BYTES;
    for (int64_t strip = 0; strip < count; strip += LANES) {
        uint8_t* to = strips + (first + strip) / LANES * strip_bytes<Format>(columns);
        for (int64_t b = 0; b * groups_per_block < groups; b++, to += Format::BYTES)
            for (int64_t lane = 0; lane < LANES && strip + lane < count; lane++)
                Format::pack(rows + (strip + lane) * row_bytes + b * file_bytes, groups - b * groups_per_block < groups_per_block ? groups - b * groups_per_block : groups_per_block, lane, to);
    }
}

// Dequantize one row of a matrix.
template <class Format>
void dequantize_row(const uint8_t* strips, int64_t row, int64_t columns, float* out) {
    const uint8_t* p = strips + row / LANES * strip_bytes<Format>(columns);
    constexpr int64_t groups_per_block = Format::VALUES / GROUP;
    alignas(64) float scale[LANES], minimum[LANES] = {};
    alignas(64) uint8_t values[8][LANES][4];
    alignas(64) int32_t int_scale[2][LANES];
    const int64_t lane = row % LANES;
    for (int64_t g = 0; g < columns / GROUP; g++) {
        const uint8_t* block = p + g / groups_per_block * Format::BYTES;
        __m512i v[8];
        Format::read(block, g % groups_per_block, v);
        for (int i = 0; i < 8; i++) _mm512_store_si512(values[i], v[i]);
        _mm512_store_ps(scale, Format::scale(block, g % groups_per_block));
        if constexpr (Format::HAS_MINIMUM) _mm512_store_ps(minimum, Format::minimum(block, g % groups_per_block));
        if constexpr (Format::HALF_SCALES)
            for (int half : {0, 1}) _mm512_store_si512(int_scale[half], Format::int_scale(block, g % groups_per_block, half));
        for (int64_t i = 0; i < GROUP; i++) {
            float factor = scale[lane];
            if constexpr (Format::HALF_SCALES) factor *= float(int_scale[i / 16][lane]);
            out[g * GROUP + i] = factor * float(values[i / 4][lane][i % 4] - Format::OFFSET) + minimum[lane];
        }
    }
}
