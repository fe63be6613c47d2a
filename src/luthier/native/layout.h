// What step.cpp and layout.py share: structures and constants. layout() describes them, and layout.py compares the
// description with its own, field by field, whenever the library is loaded.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

using bf16 = uint16_t;

// Type of a matrix's weights, numbered as in GGUF.
enum Kind : int64_t { BF16 = 30, Q4_0 = 2, Q4_1 = 3, Q8_0 = 8, Q4_K = 12, Q6_K = 14 };

constexpr int64_t WIDTH = 32;  // every width is a multiple of this
constexpr int64_t GROUP = 32;  // values of a row that share a scale
constexpr int64_t LANES = 16;  // rows of a quantized matrix that are interleaved
constexpr int64_t BLOCK = 64;  // rows of a matrix that are multiplied at once

extern "C" {
// N x K weights.
struct Matrix {
    int64_t kind, rows, columns;
    const void* data;     // BF16: (N, K). Otherwise strips of blocks (blocks.h)
    const bf16* bias;     // (N), or null
    int64_t wide;         // with quantized weights: whether activations keep 16 bits instead of 8
};
struct Norm {
    const bf16 *weight, *bias;  // (C); layer norm has a bias, RMS norm has none. Both null: no norm
    float eps, scale, offset;   // scale: what the result is multiplied by. offset: added to the weights
};
struct Layer {
    Norm attention_norm, feed_forward_norm;
    Norm query_norm, key_norm;                         // of each head, (D), or over all heads, (H * D) and (K * D)
    Norm attention_post, feed_forward_post;            // of what is added to the residual stream
    Matrix query, key, value, output, gate, up, down;  // gate.data null: GELU(up) instead of silu(gate) * up
    float scale;                                       // of attention scores
    float attention_scale, feed_forward_scale;         // of what is added to the residual stream
    int64_t norm_over_heads, gelu_gate;                // query_norm is over all heads; GELU(gate) instead of silu(gate)
    const float *cos, *sin;                            // (positions, D / 2), or null: no rotation
};
struct Model {
    int64_t n_layers, dim, hidden_dim, n_heads, n_kv_heads, head_dim;
    const Layer* layers;
    Matrix embedding;                            // (V, C)
    const bf16* position_embedding;              // (positions, C), or null
    Norm norm;
    Matrix output;
    float embedding_scale;
};
struct Row {
    int64_t token, sequence, slot, start;  // slot: index in the cache. start: the first slot of its sequence
    int64_t needs_logits;                  // whether the logits after this token are returned
};
struct Cache {
    bf16 *keys, *values;  // (sequences, K, capacity, D)
    int64_t capacity;
};
// The arguments of step().
struct Call {
    const Model* model;
    const Row* rows;  // (n_rows)
    int64_t n_rows;
    const Cache* caches;  // (n_layers); the keys and values of the rows are written into them
    float* logits;        // (rows with needs_logits, V)
    int64_t threads;      // maximum
};
}

// One line for each constant, structure and field: its name, then value, size, or offset and size.
inline const std::string& layout_text() {
    static const std::string text = [] {
        std::string lines;
        auto add = [&](const char* name, std::initializer_list<int64_t> numbers) {
            lines += name;
            for (int64_t number : numbers) lines += " " + std::to_string(number);
            lines += "\n";
        };
#define CONSTANT(name) add(#name, {int64_t(name)});
#define STRUCTURE(name) add(#name, {int64_t(sizeof(name))});
#define FIELD(of, name) add(#of "." #name, {int64_t(offsetof(of, name)), int64_t(sizeof(of::name))});
        CONSTANT(BF16) CONSTANT(Q4_0) CONSTANT(Q4_1) CONSTANT(Q8_0) CONSTANT(Q4_K) CONSTANT(Q6_K)
        CONSTANT(WIDTH) CONSTANT(GROUP) CONSTANT(LANES)
        STRUCTURE(Matrix)
        FIELD(Matrix, kind) FIELD(Matrix, rows) FIELD(Matrix, columns) FIELD(Matrix, data) FIELD(Matrix, bias) FIELD(Matrix, wide)
        STRUCTURE(Norm) FIELD(Norm, weight) FIELD(Norm, bias) FIELD(Norm, eps) FIELD(Norm, scale) FIELD(Norm, offset)
        STRUCTURE(Layer)
        FIELD(Layer, attention_norm) FIELD(Layer, feed_forward_norm) FIELD(Layer, query_norm) FIELD(Layer, key_norm)
        FIELD(Layer, attention_post) FIELD(Layer, feed_forward_post) FIELD(Layer, query) FIELD(Layer, key)
        FIELD(Layer, value) FIELD(Layer, output) FIELD(Layer, gate) FIELD(Layer, up) FIELD(Layer, down)
        FIELD(Layer, scale) FIELD(Layer, attention_scale) FIELD(Layer, feed_forward_scale)
        FIELD(Layer, norm_over_heads) FIELD(Layer, gelu_gate) FIELD(Layer, cos) FIELD(Layer, sin)
        STRUCTURE(Model)
        FIELD(Model, n_layers) FIELD(Model, dim) FIELD(Model, hidden_dim) FIELD(Model, n_heads)
        FIELD(Model, n_kv_heads) FIELD(Model, head_dim) FIELD(Model, layers) FIELD(Model, embedding)
        FIELD(Model, position_embedding) FIELD(Model, norm) FIELD(Model, output)
        FIELD(Model, embedding_scale)
        STRUCTURE(Row) FIELD(Row, token) FIELD(Row, sequence) FIELD(Row, slot) FIELD(Row, start) FIELD(Row, needs_logits)
        STRUCTURE(Cache) FIELD(Cache, keys) FIELD(Cache, values) FIELD(Cache, capacity)
        STRUCTURE(Call)
        FIELD(Call, model) FIELD(Call, rows) FIELD(Call, n_rows) FIELD(Call, caches) FIELD(Call, logits)
        FIELD(Call, threads)
#undef CONSTANT
#undef STRUCTURE
#undef FIELD
        return lines;
    }();
    return text;
}
