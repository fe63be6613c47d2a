// One step of a decoder for rows of tokens, each a new token of some text: all layers in one call, on a few threads.
// For x86-64 with AVX-512 and its products of bfloat16 and of 8 bits. layout.h has the structures that program.py fills.
//
// Each number depends on its own row alone and is summed in one order, whatever the rows beside it and the threads, as
// long as a text has FEW new tokens; a prompt takes other ways in attention and in bfloat16, which round differently.
//
// Shapes: M rows, C dim, F hidden_dim, H query heads, K key heads, D head_dim, V vocab_size.
#include "attention.h"
#include "team.h"

namespace {

void normalize(const Norm& norm, const float* x, int64_t C, float* y) {
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
    const float factor = 1 / std::sqrt(_mm512_reduce_add_ps(sum) / float(C) + norm.eps);
    for (int64_t c = 0; c < C; c += 16) {
        __m512 d = _mm512_sub_ps(_mm512_loadu_ps(x + c), _mm512_set1_ps(mean));
        d = _mm512_mul_ps(_mm512_mul_ps(d, _mm512_set1_ps(factor)), load_floats(norm.weight + c));
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

// Rows of one text that follow each other, for the heads that share keys: a piece of work.
struct Queries {
    int64_t begin, end, head;
};

struct Step {
    static constexpr int64_t FEW = 17;     // new tokens of a text
    static constexpr int64_t TOGETHER = 32;  // rows of a text that meet its keys together

    const Model& model;
    const Row* rows;
    const int64_t M;
    const Cache* caches;
    float* logits;
    Team team;
    std::vector<float> x, q, k, v;       // (M, C), (M, H * D), (M, K * D)
    std::vector<float> mixed, hidden;    // (M, H * D), (M, F)
    bool alone;                          // each text has few new tokens, which are read as if they came one by one
    std::vector<Queries> queries;        // none of those
    std::vector<std::atomic<int64_t>> next;  // of the queries, in each layer

    Step(const Model& model, const Row* rows, int64_t M, const Cache* caches, float* logits)
        : model(model), rows(rows), M(M), caches(caches), logits(logits), x(M * model.dim),
          q(M * model.n_heads * model.head_dim), k(M * model.n_kv_heads * model.head_dim), v(k.size()),
          mixed(q.size()), hidden(M * model.hidden_dim), next(model.n_layers) {
        int64_t longest = 0;
        for (int64_t begin = 0, end; begin < M; begin = end) {
            for (end = begin + 1; end < M && rows[end].text == rows[begin].text;) end++;
            longest = std::max(longest, end - begin);
            for (int64_t to = end; to > begin; to -= TOGETHER)
                for (int64_t head = 0; head < model.n_kv_heads; head++)
                    queries.push_back({std::max(begin, to - TOGETHER), to, head});
        }
        alone = longest <= FEW;
        if (alone) queries.clear();
        // the longest first, so that no thread is left with one at the end
        std::stable_sort(queries.begin(), queries.end(), [&](const Queries& a, const Queries& b) {
            return position(a.end - 1) > position(b.end - 1);
        });
    }

    int64_t position(int64_t row) const { return rows[row].slot - rows[row].start; }

    void work(int me) {
        const int64_t C = model.dim, H = model.n_heads, K = model.n_kv_heads, D = model.head_dim, F = model.hidden_dim;
        const Share share(M, me, team.size);
        const int64_t own = share.end - share.begin;
        std::vector<float> normed(M * C);
        Source source;
        SharedAttention attention;
        // rows that threads share, each normalizes: waiting would take longer
        auto norm = [&](const Norm& with, std::initializer_list<const Matrix*> matrices) {
            for (int64_t r = 0; r < own; r++) normalize(with, &x[(share.begin + r) * C], C, &normed[r * C]);
            source.take(normed.data(), own, C, matrices);
        };
        auto add = [&](int64_t, int64_t r, int64_t first, int64_t n, const float* y) {
            for (int64_t i = 0; i < n; i++) x[r * C + first + i] += y[i];
        };
        for (int64_t r = me; r < M; r += team.size)
            embed(r);
        team.barrier();
        for (int64_t l = 0; l < model.n_layers; l++) {
            const Layer& layer = model.layers[l];
            norm(layer.attention_norm, {&layer.query, &layer.key, &layer.value});
            multiply(share, alone, {&layer.query, &layer.key, &layer.value}, source,
                     [&](int64_t which, int64_t r, int64_t first, int64_t n, const float* y) {
                         auto& to = which == 0 ? q : which == 1 ? k : v;
                         std::memcpy(&to[r * (which == 0 ? H : K) * D + first], y, n * sizeof(float));
                     });
            team.barrier();
            remember(me, caches[l]);
            team.barrier();
            if (queries.empty()) attend_singly(me, layer, caches[l]);
            else attend_together(l, attention);
            team.barrier();
            source.take(mixed.data() + share.begin * H * D, own, H * D, {&layer.output});
            multiply(share, alone, {&layer.output}, source, add);
            team.barrier();
            if (layer.gate.numbers) norm(layer.feed_forward_norm, {&layer.gate, &layer.up});
            else norm(layer.feed_forward_norm, {&layer.up});
            feed_forward(share, layer, source);
            team.barrier();
            source.take(hidden.data() + share.begin * F, own, F, {&layer.down});
            multiply(share, alone, {&layer.down}, source, add);
            team.barrier();
        }
        int64_t wanted = 0;
        for (int64_t r = 0; r < M; r++)
            if (rows[r].wanted) normalize(model.norm, &x[r * C], C, &normed[wanted++ * C]);
        source.take(normed.data(), wanted, C, {&model.output});
        multiply(Share{0, wanted, me, team.size}, alone, {&model.output}, source,
                 [&](int64_t, int64_t r, int64_t first, int64_t n, const float* y) {
                     std::memcpy(logits + r * model.output.rows + first, y, n * sizeof(float));
                 });
    }

    void embed(int64_t row) {
        const int64_t C = model.dim, token = rows[row].token;
        float* y = &x[row * C];
        if (model.embedding.kind == BF16)
            for (int64_t c = 0; c < C; c++) y[c] = to_float(((const bf16*)model.embedding.numbers)[token * C + c]);
        else
            with_format(model.embedding.kind, [&](auto format) {
                unpack_row<decltype(format)>((const uint8_t*)model.embedding.numbers, token, C, y);
            });
        if (model.position_embedding)
            for (int64_t c = 0; c < C; c++) y[c] += to_float(model.position_embedding[position(row) * C + c]);
    }

    void turn(float* head, int64_t row) const {
        const int64_t half = model.head_dim / 2;
        if (model.cos) rotate(head, model.cos + position(row) * half, model.sin + position(row) * half, 2 * half);
    }

    // The first key of a row's text, or its first value.
    bf16* first_of(bf16* buffer, const Cache& cache, int64_t row, int64_t head) const {
        return buffer + ((rows[row].text * model.n_kv_heads + head) * cache.capacity + rows[row].start) * model.head_dim;
    }

    // New keys and values go into the cache.
    void remember(int me, const Cache& cache) {
        const int64_t K = model.n_kv_heads, D = model.head_dim;
        for (int64_t i = me; i < M * K; i += team.size) {
            const int64_t row = i / K;
            turn(&k[i * D], row);
            to_bf16(&k[i * D], first_of(cache.keys, cache, row, i % K) + position(row) * D, D);
            to_bf16(&v[i * D], first_of(cache.values, cache, row, i % K) + position(row) * D, D);
        }
    }

    void attend_singly(int me, const Layer& layer, const Cache& cache) {
        const int64_t H = model.n_heads, D = model.head_dim, group = H / model.n_kv_heads;
        std::vector<bf16> query(D);
        std::vector<float> scores;
        for (int64_t i = me; i < M * H; i += team.size) {
            const int64_t row = i / H, head = i % H / group;
            turn(&q[i * D], row);
            to_bf16(&q[i * D], query.data(), D);
            attend(query.data(), first_of(cache.keys, cache, row, head), first_of(cache.values, cache, row, head),
                   position(row) + 1, D, layer.scale, scores, &mixed[i * D]);
        }
    }

    void attend_together(int64_t l, SharedAttention& attention) {
        const int64_t H = model.n_heads, D = model.head_dim, group = H / model.n_kv_heads;
        for (int64_t i; (i = next[l]++) < int64_t(queries.size());) {
            const auto [begin, end, head] = queries[i];
            attention.begin((end - begin) * group, D);
            for (int64_t r = 0; r < (end - begin) * group; r++) {
                const int64_t row = begin + r / group;
                float* query = &q[(row * H + head * group + r % group) * D];
                turn(query, row);
                to_bf16(query, &attention.queries[r * D], D);
                attention.last[r] = position(row);
            }
            attention.over(first_of(caches[l].keys, caches[l], begin, head), first_of(caches[l].values, caches[l], begin, head),
                           model.layers[l].scale);
            for (int64_t r = 0; r < (end - begin) * group; r++)
                attention.write(r, &mixed[((begin + r / group) * H + head * group + r % group) * D]);
        }
    }

    // hidden = silu(gate) * up, or GELU(up) where there is no gate.
    void feed_forward(const Share& share, const Layer& layer, const Source& source) {
        const int64_t M = share.end - share.begin;
        std::vector<float> gate(layer.gate.numbers ? M * BLOCK : 0);
        int64_t opened = -1;  // the columns of the gate that are there
        multiply(share, alone, {&layer.up}, source, [&](int64_t, int64_t r, int64_t first, int64_t n, const float* up) {
            if (layer.gate.numbers && opened != first)
                multiply_block(layer.gate, opened = first, n, source, M, alone, gate.data());
            for (int64_t i = 0; i < n; i += 16) {
                __m512 y = _mm512_loadu_ps(up + i);
                y = gate.empty() ? gelu(y) : _mm512_mul_ps(silu(_mm512_loadu_ps(&gate[(r - share.begin) * BLOCK + i])), y);
                _mm512_storeu_ps(&hidden[r * model.hidden_dim + first + i], y);
            }
        });
    }
};

}  // namespace

extern "C" {
// What this library was compiled with, see layout.h.
const char* layout() { return layout_text().c_str(); }

void step(const Call* call) {
    Step one(*call->model, call->rows, call->n_rows, call->caches, call->logits);
    one.team.run(call->threads, call->n_rows, [&](int me) { one.work(me); });
}

// Bytes of the numbers of a matrix in blocks.
int64_t bytes_of(int64_t kind, int64_t rows, int64_t columns) {
    int64_t bytes = 0;
    with_format(kind, [&](auto format) { bytes = (rows + LANES - 1) / LANES * strip_bytes<decltype(format)>(columns); });
    return bytes;
}

// Rows of a GGUF file, as they lie there, into a matrix in blocks from row `first` on, a multiple of LANES.
void pack(const Matrix* w, const uint8_t* rows, int64_t first, int64_t count) {
    with_format(w->kind, [&](auto format) {
        pack_rows<decltype(format)>(rows, first, count, w->columns, (uint8_t*)w->numbers);
    });
}

// Rows of a matrix in blocks as the numbers that they stand for: out (count, K) float32.
void unpack(const Matrix* w, const int64_t* rows, int64_t count, float* out) {
    with_format(w->kind, [&](auto format) {
        for (int64_t i = 0; i < count; i++)
            unpack_row<decltype(format)>((const uint8_t*)w->numbers, rows[i], w->columns, out + i * w->columns);
    });
}

// x (M, K) float32 times a matrix: out (M, N) float32.
void multiply_rows(const Matrix* w, const float* x, int64_t M, float* out, int64_t threads) {
    Team team;
    team.run(threads, M, [&](int me) {
        const Share share(M, me, team.size);
        Source source;
        source.take(x + share.begin * w->columns, share.end - share.begin, w->columns, {w});
        multiply(share, false, {w}, source, [&](int64_t, int64_t r, int64_t first, int64_t n, const float* y) {
            std::memcpy(out + r * w->rows + first, y, n * sizeof(float));
        });
    });
}
}
