// Weights in the blocks of GGUF files (llama.cpp's ggml-common.h). In memory, LANES rows lie side by side as a strip,
// so that each lane of a vector is a row: the same bits as in the file, in another order.
//
// A format has NUMBERS of each row in a block of BYTES, made of file blocks of FILE_NUMBERS in FILE_BYTES. A weight is
// scale * (number - OFFSET) + lowest; GROUP numbers share scale and lowest. HALVES: each half of a group has a whole
// number that the scale is multiplied by.
//
//   pack(from, groups, lane, to)  one row's part of a block, of which a file's last one may lack groups
//   read(p, group, v)             v[i]: numbers 4 * i to 4 * i + 3 of a group, unsigned, those of a row in its lane
#pragma once
#include "layout.h"
#include "numbers.h"

inline __m512 load_halves(const uint8_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline __m128i load_16(const uint8_t* p) { return _mm_loadu_si128((const __m128i*)p); }

// A file's 16 bytes, number i in the low half and i + 16 in the high one, four to each line of a strip.
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

struct Blocks_Q4_0 {  // a file's block: scale, 16 bytes of halves
    static constexpr int64_t FILE_NUMBERS = 32, FILE_BYTES = 18, NUMBERS = 64, BYTES = 576;
    static constexpr int OFFSET = 8;
    static constexpr bool LOWEST = false, HALVES = false;
    static void pack(const uint8_t* from, int64_t groups, int64_t lane, uint8_t* to) {
        for (int64_t g = 0; g < groups; g++, from += FILE_BYTES) {
            std::memcpy(to + 32 * g + 2 * lane, from, 2);
            pack_nibbles(from + 2, lane, to + 64 + 256 * g);
        }
    }
    static void read(const uint8_t* p, int64_t group, __m512i (&v)[8]) { read_nibbles(p + 64 + 256 * group, v); }
    static __m512 scale(const uint8_t* p, int64_t group) { return load_halves(p + 32 * group); }
};

struct Blocks_Q4_1 {  // scale, lowest, 16 bytes of halves
    static constexpr int64_t FILE_NUMBERS = 32, FILE_BYTES = 20, NUMBERS = 64, BYTES = 640;
    static constexpr int OFFSET = 0;
    static constexpr bool LOWEST = true, HALVES = false;
    static void pack(const uint8_t* from, int64_t groups, int64_t lane, uint8_t* to) {
        for (int64_t g = 0; g < groups; g++, from += FILE_BYTES) {
            std::memcpy(to + 32 * g + 2 * lane, from, 2);
            std::memcpy(to + 64 + 32 * g + 2 * lane, from + 2, 2);
            pack_nibbles(from + 4, lane, to + 128 + 256 * g);
        }
    }
    static void read(const uint8_t* p, int64_t group, __m512i (&v)[8]) { read_nibbles(p + 128 + 256 * group, v); }
    static __m512 scale(const uint8_t* p, int64_t group) { return load_halves(p + 32 * group); }
    static __m512 lowest(const uint8_t* p, int64_t group) { return load_halves(p + 64 + 32 * group); }
};

struct Blocks_Q8_0 {  // scale, 32 signed numbers, which become unsigned: products want one side so
    static constexpr int64_t FILE_NUMBERS = 32, FILE_BYTES = 34, NUMBERS = 64, BYTES = 1088;
    static constexpr int OFFSET = 128;
    static constexpr bool LOWEST = false, HALVES = false;
    static void pack(const uint8_t* from, int64_t groups, int64_t lane, uint8_t* to) {
        for (int64_t g = 0; g < groups; g++, from += FILE_BYTES) {
            std::memcpy(to + 32 * g + 2 * lane, from, 2);
            for (int64_t i = 0; i < 32; i++) to[64 + 512 * g + i / 4 * 64 + 4 * lane + i % 4] = from[2 + i] ^ 128;
        }
    }
    static void read(const uint8_t* p, int64_t group, __m512i (&v)[8]) {
        for (int i = 0; i < 8; i++) v[i] = _mm512_loadu_si512(p + 64 + 512 * group + 64 * i);
    }
    static __m512 scale(const uint8_t* p, int64_t group) { return load_halves(p + 32 * group); }
};

// Scale, scale of the lowest, a whole number of 6 bits for each of both and each of 8 groups in 12 bytes, 32 bytes of
// halves for two groups. In a strip a whole number takes a byte, and the halves lie as in Q4_0.
struct Blocks_Q4_K {
    static constexpr int64_t FILE_NUMBERS = 256, FILE_BYTES = 144, NUMBERS = 256, BYTES = 320 + 2048;
    static constexpr int OFFSET = 0;
    static constexpr bool LOWEST = true, HALVES = false;
    static void pack(const uint8_t* from, int64_t, int64_t lane, uint8_t* to) {
        std::memcpy(to + 2 * lane, from, 2);
        std::memcpy(to + 32 + 2 * lane, from + 2, 2);
        const uint8_t *six = from + 4, *numbers = from + 16;
        for (int64_t g = 0; g < 8; g++) {
            const bool late = g >= 4;
            to[64 + 16 * g + lane] = late ? (six[g + 4] & 15) | (six[g - 4] >> 6 << 4) : six[g] & 63;
            to[192 + 16 * g + lane] = late ? (six[g + 4] >> 4) | (six[g] >> 6 << 4) : six[g + 4] & 63;
            uint8_t halves[16];
            const uint8_t* half = numbers + g / 2 * 32;
            for (int64_t i = 0; i < 16; i++)
                halves[i] = g % 2 ? (half[i] >> 4) | (half[i + 16] & 0xf0) : (half[i] & 15) | uint8_t(half[i + 16] << 4);
            pack_nibbles(halves, lane, to + 320 + 256 * g);
        }
    }
    static void read(const uint8_t* p, int64_t group, __m512i (&v)[8]) { read_nibbles(p + 320 + 256 * group, v); }
    static __m512 whole(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_16(p))); }
    static __m512 scale(const uint8_t* p, int64_t group) {
        return _mm512_mul_ps(load_halves(p), whole(p + 64 + 16 * group));
    }
    static __m512 lowest(const uint8_t* p, int64_t group) {
        const __m512 negative = _mm512_xor_ps(load_halves(p + 32), _mm512_set1_ps(-0.0f));
        return _mm512_mul_ps(negative, whole(p + 192 + 16 * group));
    }
};

// 128 bytes with the low 4 bits, 64 with the high 2, 16 signed whole numbers, scale. In a strip the low halves lie as in
// Q4_0; of half a group, byte j of 4 has the high bits of numbers j, j + 4, j + 8 and j + 12.
struct Blocks_Q6_K {
    static constexpr int64_t FILE_NUMBERS = 256, FILE_BYTES = 210, NUMBERS = 256, BYTES = 320 + 2048 + 1024;
    static constexpr int OFFSET = 32;
    static constexpr bool LOWEST = false, HALVES = true;
    static void pack(const uint8_t* from, int64_t, int64_t lane, uint8_t* to) {
        std::memcpy(to + 2 * lane, from + 208, 2);
        for (int64_t i = 0; i < 16; i++) to[64 + 16 * i + lane] = from[192 + i];
        for (int64_t g = 0; g < 8; g++) {
            uint8_t low[32], high[32];
            for (int64_t i = 0; i < 32; i++) {  // numbers g * 32 + i: four groups share 64 bytes and 32
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
    static __m512 scale(const uint8_t* p, int64_t) { return load_halves(p); }
    static __m512i whole(const uint8_t* p, int64_t group, int64_t half) {
        return _mm512_cvtepi8_epi32(load_16(p + 64 + 32 * group + 16 * half));
    }
};

// A function of the format of a kind, as a type: f(Blocks_...()). Nothing for other kinds.
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

// Bytes of a strip of so many columns.
template <class Format>
int64_t strip_bytes(int64_t columns) {
    return (columns + Format::NUMBERS - 1) / Format::NUMBERS * Format::BYTES;
}

// Rows of a file, each of columns / FILE_NUMBERS blocks, from row `first` of the matrix on (a multiple of LANES) into
// its strips. What lacks to a whole strip or block stays as it is: zeros.
template <class Format>
void pack_rows(const uint8_t* rows, int64_t first, int64_t count, int64_t columns, uint8_t* strips) {
    const int64_t row_bytes = columns / Format::FILE_NUMBERS * Format::FILE_BYTES, groups = columns / GROUP;
    constexpr int64_t own = Format::NUMBERS / GROUP, file_bytes = Format::NUMBERS / Format::FILE_NUMBERS * Format::FILE_BYTES;
    for (int64_t strip = 0; strip < count; strip += LANES) {
        uint8_t* to = strips + (first + strip) / LANES * strip_bytes<Format>(columns);
        for (int64_t b = 0; b * own < groups; b++, to += Format::BYTES)
            for (int64_t lane = 0; lane < LANES && strip + lane < count; lane++)
                Format::pack(rows + (strip + lane) * row_bytes + b * file_bytes, groups - b * own < own ? groups - b * own : own, lane, to);
    }
}

// One row of a matrix, as the floats that it stands for.
template <class Format>
void unpack_row(const uint8_t* strips, int64_t row, int64_t columns, float* out) {
    const uint8_t* p = strips + row / LANES * strip_bytes<Format>(columns);
    constexpr int64_t own = Format::NUMBERS / GROUP;
    alignas(64) float scale[LANES], lowest[LANES] = {};
    alignas(64) uint8_t numbers[8][LANES][4];
    alignas(64) int32_t whole[2][LANES];
    const int64_t lane = row % LANES;
    for (int64_t g = 0; g < columns / GROUP; g++) {
        const uint8_t* block = p + g / own * Format::BYTES;
        __m512i v[8];
        Format::read(block, g % own, v);
        for (int i = 0; i < 8; i++) _mm512_store_si512(numbers[i], v[i]);
        _mm512_store_ps(scale, Format::scale(block, g % own));
        if constexpr (Format::LOWEST) _mm512_store_ps(lowest, Format::lowest(block, g % own));
        if constexpr (Format::HALVES)
            for (int half : {0, 1}) _mm512_store_si512(whole[half], Format::whole(block, g % own, half));
        for (int64_t i = 0; i < GROUP; i++) {
            float factor = scale[lane];
            if constexpr (Format::HALVES) factor *= float(whole[i / 16][lane]);
            out[g * GROUP + i] = factor * float(numbers[i / 4][lane][i % 4] - Format::OFFSET) + lowest[lane];
        }
    }
}
