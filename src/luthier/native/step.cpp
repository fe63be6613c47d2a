// One forward pass of a decoder over rows, each a new token of some sequence: all layers in one call, multithreaded.
// For x86-64 with AVX-512, AVX512-BF16 and AVX512-VNNI. layout.h has the structures that program.py fills.
//
// Each result depends on its own row only, summed in a fixed order, whatever other rows and threads there are, as long as
// every sequence has at most MAX_DECODE_TOKENS new tokens. Prefill takes other paths in attention and with bfloat16
// weights, which round differently.
//
// Shapes: M rows, C dim, F hidden_dim, H query heads, K key heads, D head_dim, V vocab_size.
#include "attention.h"
#include "team.h"

namespace {

void normalize(const Norm& norm, const float* x, int64_t C, float* y) {
    if (!norm.weight) {
        std::copy(x, x + C, y);
        return;
    }
    __m512 sum = _mm512_setzero_ps();
    float mean = 0;
    if (norm.bias) {
        for (int64_t c = 0; c < C; c += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + c));
        mean = _mm512_reduce_add_ps(sum) / float(C), sum = _mm512_setzero_ps();
    }
    for (int64_t c = 0; c < C; c += 16) {
        __m512 d = _mm512_sub_ps(_mm512_loadu_ps(x + c), _mm512_set1_ps(mean));
        sum = _mm512_fmadd_ps(d, d, sum);
    }
    const float factor = norm.scale / std::sqrt(_mm512_reduce_add_ps(sum) / float(C) + norm.eps);
    for (int64_t c = 0; c < C; c += 16) {
        __m512 d = _mm512_sub_ps(_mm512_loadu_ps(x + c), _mm512_set1_ps(mean));
        const __m512 weight = _mm512_add_ps(load_floats(norm.weight + c), _mm512_set1_ps(norm.offset));
        d = _mm512_mul_ps(_mm512_mul_ps(d, _mm512_set1_ps(factor)), weight);
        _mm512_storeu_ps(y + c, norm.bias ? _mm512_add_ps(d, load_floats(norm.bias + c)) : d);
    }
}

void rotate(float* head, const float* cos, const float* sin, int64_t D) {  // pairs lie in halves
    for (int64_t i = 0; i < D / 2; i++) {
        float a = head[i], b = head[i + D / 2];
        head[i] = a * cos[i] - b * sin[i];
        head[i + D / 2] = b * cos[i] + a * sin[i];
    }
}

inline __m512 silu(__m512 x) {
    __m512 e = exp512(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), x), _mm512_set1_ps(87.0f)));
    return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1)));
}

inline __m512 gelu(__m512 x) {  // by tanh: x * sigmoid(2 * ...)
    __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x), z = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
    __m512 e = exp512(_mm512_min_ps(_mm512_mul_ps(z, _mm512_set1_ps(-1.5957691216f)), _mm512_set1_ps(87.0f)));
    return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1)));
}

void to_bf16(const float* from, bf16* to, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) store_bf16(to + i, _mm512_loadu_ps(from + i));
}

// Consecutive rows of one sequence and the query heads that share a key head: a unit of work.
struct QueryBlock {
    int64_t begin, end, head;
};

struct Step {
    static constexpr int64_t MAX_DECODE_TOKENS = 17;     // new tokens of a sequence
    static constexpr int64_t QUERY_BLOCK = 32;  // rows of a sequence that attend together

    const Model& model;
    const Row* rows;
    const int64_t M;
    const Cache* caches;
    float* logits;
    ThreadTeam team;
    std::vector<float> x, q, k, v;       // (M, C), (M, H * D), (M, K * D)
    std::vector<float> attended, hidden;    // (M, H * D), (M, F)
    std::vector<float> added;               // (M, C): what a norm passes before it is added to x
    bool row_independent;                          // decoding: every sequence has at most MAX_DECODE_TOKENS new tokens
    std::vector<QueryBlock> query_blocks;        // of prefill; empty when row_independent
    std::vector<std::atomic<int64_t>> next_block;  // next index in query_blocks, for each layer

    Step(const Model& model, const Row* rows, int64_t M, const Cache* caches, float* logits)
        : model(model), rows(rows), M(M), caches(caches), logits(logits), x(M * model.dim),
          q(M * model.n_heads * model.head_dim), k(M * model.n_kv_heads * model.head_dim), v(k.size()),
          attended(q.size()), hidden(M * model.hidden_dim), next_block(model.n_layers) {
        int64_t longest = 0;
        for (int64_t begin = 0, end; begin < M; begin = end) {
            for (end = begin + 1; end < M && rows[end].sequence == rows[begin].sequence;) end++;
            longest = std::max(longest, end - begin);
            for (int64_t to = end; to > begin; to -= QUERY_BLOCK)
                for (int64_t head = 0; head < model.n_kv_heads; head++)
                    query_blocks.push_back({std::max(begin, to - QUERY_BLOCK), to, head});
        }
        for (int64_t l = 0; l < model.n_layers; l++)
            if (model.layers[l].attention_post.weight || model.layers[l].feed_forward_post.weight) added.resize(x.size());
        row_independent = longest <= MAX_DECODE_TOKENS;
        if (row_independent) query_blocks.clear();
        // the longest first, so that no thread is left with a long one at the end
        std::stable_sort(query_blocks.begin(), query_blocks.end(), [&](const QueryBlock& a, const QueryBlock& b) {
            return position(a.end - 1) > position(b.end - 1);
        });
    }

    int64_t position(int64_t row) const { return rows[row].slot - rows[row].start; }

    void work(int thread) {
        const int64_t C = model.dim, H = model.n_heads, K = model.n_kv_heads, D = model.head_dim, F = model.hidden_dim;
        const Partition partition(M, thread, team.size);
        const int64_t n_rows = partition.end - partition.begin;
        std::vector<float> normed(M * C);
        Activations activations;
        BlockedAttention attention;
        // each thread normalizes all rows of its partition itself: a barrier would take longer
        auto load_normalized = [&](const Norm& norm, std::initializer_list<const Matrix*> matrices) {
            for (int64_t r = 0; r < n_rows; r++) normalize(norm, &x[(partition.begin + r) * C], C, &normed[r * C]);
            activations.set_rows(normed.data(), n_rows, C, matrices);
        };
        auto add = [&](float scale) {
            return [&, scale](int64_t, int64_t r, int64_t first, int64_t n, const float* y) {
                for (int64_t i = 0; i < n; i++) x[r * C + first + i] += scale * y[i];
            };
        };
        // x += scale * norm(product)
        auto multiply_and_add = [&](const Matrix& matrix, const Norm& post, float scale) {
            if (!post.weight) {
                multiply(partition, row_independent, {&matrix}, activations, add(scale));
                team.barrier();
                return;
            }
            multiply(partition, row_independent, {&matrix}, activations,
                     [&](int64_t, int64_t r, int64_t first, int64_t n, const float* y) {
                         std::memcpy(&added[r * C + first], y, n * sizeof(float));
                     });
            team.barrier();
            for (int64_t r = thread; r < M; r += team.size) {
                normalize(post, &added[r * C], C, normed.data());
                for (int64_t c = 0; c < C; c++) x[r * C + c] += scale * normed[c];
            }
            team.barrier();
        };
        for (int64_t r = thread; r < M; r += team.size)
            embed(r);
        team.barrier();
        for (int64_t l = 0; l < model.n_layers; l++) {
            const Layer& layer = model.layers[l];
            load_normalized(layer.attention_norm, {&layer.query, &layer.key, &layer.value});
            multiply(partition, row_independent, {&layer.query, &layer.key, &layer.value}, activations,
                     [&](int64_t which, int64_t r, int64_t first, int64_t n, const float* y) {
                         auto& to = which == 0 ? q : which == 1 ? k : v;
                         std::memcpy(&to[r * (which == 0 ? H : K) * D + first], y, n * sizeof(float));
                     });
            team.barrier();
            if (layer.norm_over_heads) {
                for (int64_t r = thread; r < M; r += team.size) {
                    normalize(layer.query_norm, &q[r * H * D], H * D, &q[r * H * D]);
                    normalize(layer.key_norm, &k[r * K * D], K * D, &k[r * K * D]);
                }
                team.barrier();
            }
            write_kv(thread, layer, caches[l]);
            team.barrier();
            if (query_blocks.empty()) attend_per_row(thread, layer, caches[l]);
            else attend_in_blocks(l, attention);
            team.barrier();
            activations.set_rows(attended.data() + partition.begin * H * D, n_rows, H * D, {&layer.output});
            multiply_and_add(layer.output, layer.attention_post, layer.attention_scale);
            if (layer.gate.data) load_normalized(layer.feed_forward_norm, {&layer.gate, &layer.up});
            else load_normalized(layer.feed_forward_norm, {&layer.up});
            feed_forward(partition, layer, activations);
            team.barrier();
            activations.set_rows(hidden.data() + partition.begin * F, n_rows, F, {&layer.down});
            multiply_and_add(layer.down, layer.feed_forward_post, layer.feed_forward_scale);
        }
        int64_t wanted = 0;
        for (int64_t r = 0; r < M; r++)
            if (rows[r].needs_logits) normalize(model.norm, &x[r * C], C, &normed[wanted++ * C]);
        activations.set_rows(normed.data(), wanted, C, {&model.output});
        multiply(Partition{0, wanted, thread, team.size}, row_independent, {&model.output}, activations,
                 [&](int64_t, int64_t r, int64_t first, int64_t n, const float* y) {
                     std::memcpy(logits + r * model.output.rows + first, y, n * sizeof(float));
                 });
    }

    void embed(int64_t row) {
        const int64_t C = model.dim, token = rows[row].token;
        float* y = &x[row * C];
        if (model.embedding.kind == BF16)
            for (int64_t c = 0; c < C; c++) y[c] = to_float(((const bf16*)model.embedding.data)[token * C + c]);
        else
            with_format(model.embedding.kind, [&](auto format) {
                dequantize_row<decltype(format)>((const uint8_t*)model.embedding.data, token, C, y);
            });
        if (model.embedding_scale != 1)
            for (int64_t c = 0; c < C; c++) y[c] *= model.embedding_scale;
        if (model.position_embedding)
            for (int64_t c = 0; c < C; c++) y[c] += to_float(model.position_embedding[position(row) * C + c]);
    }

    // What queries and keys pass through before the scores: the norm of a head, then rotary positions.
    void prepare(const Layer& layer, const Norm& norm, float* head, int64_t row) const {
        const int64_t half = model.head_dim / 2;
        if (norm.weight && !layer.norm_over_heads) normalize(norm, head, model.head_dim, head);
        if (layer.cos) rotate(head, layer.cos + position(row) * half, layer.sin + position(row) * half, 2 * half);
    }

    // The first key (or value) of a row's sequence.
    bf16* sequence_start(bf16* buffer, const Cache& cache, int64_t row, int64_t head) const {
        return buffer + ((rows[row].sequence * model.n_kv_heads + head) * cache.capacity + rows[row].start) * model.head_dim;
    }

    // Write the new keys and values to the cache.
    void write_kv(int thread, const Layer& layer, const Cache& cache) {
        const int64_t K = model.n_kv_heads, D = model.head_dim;
        for (int64_t i = thread; i < M * K; i += team.size) {
            const int64_t row = i / K;
            prepare(layer, layer.key_norm, &k[i * D], row);
            to_bf16(&k[i * D], sequence_start(cache.keys, cache, row, i % K) + position(row) * D, D);
            to_bf16(&v[i * D], sequence_start(cache.values, cache, row, i % K) + position(row) * D, D);
        }
    }

    void attend_per_row(int thread, const Layer& layer, const Cache& cache) {
        const int64_t H = model.n_heads, D = model.head_dim, group = H / model.n_kv_heads;
        std::vector<bf16> query(D);
        std::vector<float> scores;
        for (int64_t i = thread; i < M * H; i += team.size) {
            const int64_t row = i / H, head = i % H / group;
            prepare(layer, layer.query_norm, &q[i * D], row);
            to_bf16(&q[i * D], query.data(), D);
            attend(query.data(), sequence_start(cache.keys, cache, row, head), sequence_start(cache.values, cache, row, head),
                   position(row) + 1, D, layer.scale, scores, &attended[i * D]);
        }
    }

    void attend_in_blocks(int64_t l, BlockedAttention& attention) {
        const int64_t H = model.n_heads, D = model.head_dim, group = H / model.n_kv_heads;
        const Layer& layer = model.layers[l];
        for (int64_t i; (i = next_block[l]++) < int64_t(query_blocks.size());) {
            const auto [begin, end, head] = query_blocks[i];
            attention.begin((end - begin) * group, D);
            for (int64_t r = 0; r < (end - begin) * group; r++) {
                const int64_t row = begin + r / group;
                float* query = &q[(row * H + head * group + r % group) * D];
                prepare(layer, layer.query_norm, query, row);
                to_bf16(query, &attention.queries[r * D], D);
                attention.last_key[r] = position(row);
            }
            attention.run(sequence_start(caches[l].keys, caches[l], begin, head), sequence_start(caches[l].values, caches[l], begin, head),
                           layer.scale);
            for (int64_t r = 0; r < (end - begin) * group; r++)
                attention.write(r, &attended[((begin + r / group) * H + head * group + r % group) * D]);
        }
    }

    // hidden = silu(gate) * up, or GELU(gate) * up, or GELU(up) without a gate.
    void feed_forward(const Partition& partition, const Layer& layer, const Activations& activations) {
        const int64_t M = partition.end - partition.begin;
        std::vector<float> gate(layer.gate.data ? M * BLOCK : 0);
        int64_t opened = -1;  // first column of the gate that has been computed
        multiply(partition, row_independent, {&layer.up}, activations, [&](int64_t, int64_t r, int64_t first, int64_t n, const float* up) {
            if (layer.gate.data && opened != first)
                multiply_block(layer.gate, opened = first, n, activations, M, row_independent, gate.data());
            for (int64_t i = 0; i < n; i += 16) {
                __m512 y = _mm512_loadu_ps(up + i);
                if (gate.empty()) y = gelu(y);
                else {
                    const __m512 g = _mm512_loadu_ps(&gate[(r - partition.begin) * BLOCK + i]);
                    y = _mm512_mul_ps(layer.gelu_gate ? gelu(g) : silu(g), y);
                }
                _mm512_storeu_ps(&hidden[r * model.hidden_dim + first + i], y);
            }
        });
    }
};

}  // namespace

extern "C" {
// The layout that this library was compiled with, see layout.h.
const char* layout() { return layout_text().c_str(); }

void step(const Call* call) {
    Step one(*call->model, call->rows, call->n_rows, call->caches, call->logits);
    one.team.run(call->threads, call->n_rows, [&](int thread) { one.work(thread); });
}

// Bytes of a packed matrix.
int64_t packed_size(int64_t kind, int64_t rows, int64_t columns) {
    int64_t bytes = 0;
    with_format(kind, [&](auto format) { bytes = (rows + LANES - 1) / LANES * strip_bytes<decltype(format)>(columns); });
    return bytes;
}

// Pack rows of a GGUF file into a matrix from row `first` on, a multiple of LANES.
void pack(const Matrix* w, const uint8_t* rows, int64_t first, int64_t count) {
    with_format(w->kind, [&](auto format) {
        pack_rows<decltype(format)>(rows, first, count, w->columns, (uint8_t*)w->data);
    });
}

// Dequantize rows of a packed matrix: out (count, K) float32.
void dequantize(const Matrix* w, const int64_t* rows, int64_t count, float* out) {
    with_format(w->kind, [&](auto format) {
        for (int64_t i = 0; i < count; i++)
            dequantize_row<decltype(format)>((const uint8_t*)w->data, rows[i], w->columns, out + i * w->columns);
    });
}

// x (M, K) float32 times a matrix: out (M, N) float32.
void multiply_rows(const Matrix* w, const float* x, int64_t M, float* out, int64_t threads) {
    ThreadTeam team;
    team.run(threads, M, [&](int thread) {
        const Partition partition(M, thread, team.size);
        Activations activations;
        activations.set_rows(x + partition.begin * w->columns, partition.end - partition.begin, w->columns, {w});
        multiply(partition, false, {w}, activations, [&](int64_t, int64_t r, int64_t first, int64_t n, const float* y) {
            std::memcpy(out + r * w->rows + first, y, n * sizeof(float));
        });
    });
}
}
