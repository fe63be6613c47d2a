// One step of a decoder for a few rows of tokens, each a new token of some text: all layers in one call, on a few threads.
// For x86-64 with AVX-512 and its bfloat16 products. program.py fills the structures; their fields must agree.
//
// A step of one token is bound by reading the weights, so they are read as they are packed (quantize/linear.py). Each
// number depends on its own row alone and is summed in one order, whatever the rows beside it and the threads.
//
// Shapes: M rows, C dim, F hidden_dim, H query heads, K key heads, D head_dim, V vocab_size, N x K a matrix.
#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

using bf16 = uint16_t;

extern "C" {
enum Kind : int64_t { BF16 = 0, INT8 = 1, INT4 = 2 };
struct Matrix {
    int64_t kind, rows, columns;
    const void* numbers;  // BF16, INT8: (N, K). INT4: (N / 64, K, 32) bytes, row i in the low half, i + 32 in the high
    const bf16* scales;   // INT8: (N). INT4: (K / 32, N, 2), scale and zero
    const float* bias;    // (N), or null
};
struct Norm {
    const float *weight, *bias;  // a bias: layer norm. None: RMS norm
    float eps;
};
struct Layer {
    Norm attention_norm, feed_forward_norm;
    Matrix query, key, value, output, gate, up, down;  // gate.numbers null: GELU(up) and not silu(gate) * up
    float scale;                                       // of the scores
};
struct Model {
    int64_t n_layers, dim, hidden_dim, n_heads, n_kv_heads, head_dim;
    const Layer* layers;
    const bf16 *embedding, *position_embedding;  // (V, C), (positions, C) or null
    const float *cos, *sin;                      // (positions, D / 2), or null: no rotation
    Norm norm;
    Matrix output;
};
struct Row {
    int64_t token, text, slot, start;  // slot: where it lies in the cache. start: the first slot of its text there
    int64_t wanted;                    // whether the logits after it are
};
struct Cache {
    bf16 *keys, *values;  // (texts, K, capacity, D)
    int64_t capacity;
};
}

namespace {

constexpr int BLOCK = 64;  // rows of a matrix that are one piece of work
constexpr int GROUP = 32;
constexpr int AHEAD = 4096;  // bytes of a matrix that are asked for before they are needed
constexpr int SIDE = 4;  // rows of tokens that are multiplied at once

inline float to_float(bf16 x) {
    uint32_t bits = uint32_t(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
inline __m512 to_floats(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline __m512 load_floats(const bf16* p) { return to_floats(_mm256_loadu_si256((const __m256i*)p)); }
inline void store_bf16(bf16* p, __m512 x) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x)); }
inline void ask(const void* p) { _mm_prefetch((const char*)p + AHEAD, _MM_HINT_T0); }
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

// Threads that sleep between steps and wait for each other, awake, within one.
class Team {
  public:
    explicit Team(int size) : size(size) {
        for (int i = 1; i < size; i++) std::thread([this, i] { serve(i); }).detach();
    }
    const int size;
    void run(const std::function<void(int)>& work) {
        if (size == 1) return work(0);
        {
            std::lock_guard lock(mutex);
            task = &work;
            left = size - 1;
            turn++;
        }
        wake.notify_all();
        work(0);
        while (left.load(std::memory_order_acquire)) pause(0);
    }
    void meet() {
        if (size == 1) return;
        uint64_t now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
        } else {
            for (int i = 0; round.load(std::memory_order_acquire) == now; i++) pause(i);
        }
    }

  private:
    static void pause(int i) { i < 4000 ? _mm_pause() : std::this_thread::yield(); }
    void serve(int index) {
        for (uint64_t seen = 0;;) {
            std::unique_lock lock(mutex);
            wake.wait(lock, [&] { return turn != seen; });
            seen = turn;
            const auto* work = task;
            lock.unlock();
            (*work)(index);
            left.fetch_sub(1, std::memory_order_release);
        }
    }
    std::mutex mutex;
    std::condition_variable wake;
    const std::function<void(int)>* task = nullptr;
    uint64_t turn = 0;
    std::atomic<int> left{0}, arrived{0};
    std::atomic<uint64_t> round{0};
};

// What is multiplied: rows in bfloat16, and, for zeros of 4 bits, the sums of their groups.
struct Source {
    const bf16* rows;
    std::vector<float> sums;  // (M, K / GROUP)
    int64_t columns;
    void take(const bf16* from, int64_t m, int64_t k) {
        rows = from, columns = k;
        sums.resize(m * (k / GROUP));
        for (int64_t g = 0; g < m * (k / GROUP); g++) {
            __m512 sum = _mm512_add_ps(load_floats(from + g * GROUP), load_floats(from + g * GROUP + 16));
            sums[g] = _mm512_reduce_add_ps(sum);
        }
    }
};

template <int M>
void product4(const Matrix& w, int64_t first, const Source& x, int64_t row, float* out) {  // out (M, BLOCK)
    const int64_t K = w.columns, N = w.rows, G = K / GROUP;
    const uint8_t* bytes = (const uint8_t*)w.numbers + first / BLOCK * K * (BLOCK / 2);
    alignas(64) bf16 values[32];
    for (int i = 0; i < 32; i++) {  // twice 0 to 15, less 8: the fifth bit of an index does not matter
        float value = float(i % 16 - 8);
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        values[i] = bf16(bits >> 16);
    }
    const __m512i table = _mm512_load_si512(values);
    __m512 total[M][4];
    for (auto& each : total)
        for (auto& t : each) t = _mm512_setzero_ps();
    for (int64_t g = 0; g < G; g++) {
        __m512 sum[M][4];
        for (auto& each : sum)
            for (auto& s : each) s = _mm512_setzero_ps();
        for (int64_t k = g * GROUP; k < (g + 1) * GROUP; k += 2) {
            const __m128i* p = (const __m128i*)(bytes + k * (BLOCK / 2));
            ask(p);
            // two columns side by side in each lane, as the products of pairs want them
            __m512i low = _mm512_or_si512(_mm512_cvtepu8_epi32(_mm_loadu_si128(p)),
                                          _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(p + 2)), 16));
            __m512i high = _mm512_or_si512(_mm512_cvtepu8_epi32(_mm_loadu_si128(p + 1)),
                                           _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(p + 3)), 16));
            __m512bh v[4] = {(__m512bh)_mm512_permutexvar_epi16(low, table),
                             (__m512bh)_mm512_permutexvar_epi16(high, table),
                             (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(low, 4), table),
                             (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(high, 4), table)};
            for (int m = 0; m < M; m++) {
                int32_t pair;
                std::memcpy(&pair, x.rows + (row + m) * K + k, 4);
                __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                for (int j = 0; j < 4; j++) sum[m][j] = _mm512_dpbf16_ps(sum[m][j], v[j], both);
            }
        }
        for (int j = 0; j < 4; j++) {
            __m512i pairs = _mm512_loadu_si512(w.scales + 2 * (g * N + first + 16 * j));
            __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
            __m512 zero = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
            for (int m = 0; m < M; m++) {
                total[m][j] = _mm512_fmadd_ps(sum[m][j], scale, total[m][j]);
                total[m][j] = _mm512_fmadd_ps(zero, _mm512_set1_ps(x.sums[(row + m) * G + g]), total[m][j]);
            }
        }
    }
    for (int m = 0; m < M; m++)
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(out + m * BLOCK + 16 * j, total[m][j]);
}

template <int M, int64_t KIND>
void product_of_rows(const Matrix& w, int64_t first, int64_t count, const Source& x, int64_t row, float* out) {
    const int64_t K = w.columns;
    for (int64_t n = 0; n < count; n += 4) {
        int64_t at[4];  // where four rows begin; past the end, the last one once more
        for (int j = 0; j < 4; j++) at[j] = std::min(first + n + j, w.rows - 1) * K;
        __m512 sum[M][4];
        for (auto& each : sum)
            for (auto& s : each) s = _mm512_setzero_ps();
        if constexpr (KIND == BF16) {
            const bf16* p = (const bf16*)w.numbers;
            for (int64_t k = 0; k < K; k += 32)
                for (int j = 0; j < 4; j++) {
                    ask(p + at[0] + 4 * k + 32 * j);  // four rows lie in one piece
                    __m512bh v = load_pairs(p + at[j] + k);
                    for (int m = 0; m < M; m++)
                        sum[m][j] = _mm512_dpbf16_ps(sum[m][j], v, load_pairs(x.rows + (row + m) * K + k));
                }
        } else {
            const int8_t* p = (const int8_t*)w.numbers;
            for (int64_t k = 0; k < K; k += 16) {
                ask(p + at[0] + 4 * k);
                __m512 v[4];
                for (int j = 0; j < 4; j++)
                    v[j] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(p + at[j] + k))));
                for (int m = 0; m < M; m++) {
                    __m512 input = load_floats(x.rows + (row + m) * K + k);
                    for (int j = 0; j < 4; j++) sum[m][j] = _mm512_fmadd_ps(v[j], input, sum[m][j]);
                }
            }
        }
        for (int m = 0; m < M; m++)
            for (int j = 0; j < 4; j++) {
                float y = _mm512_reduce_add_ps(sum[m][j]);
                out[m * BLOCK + n + j] = KIND == INT8 ? y * to_float(w.scales[at[j] / K]) : y;
            }
    }
}

// BLOCK rows of a matrix (fewer at its end), from `first`, times SIDE rows of x or fewer, from `row`: out (m, BLOCK).
template <int M>
void product(const Matrix& w, int64_t first, const Source& x, int64_t row, float* out) {
    const int64_t count = std::min<int64_t>(BLOCK, w.rows - first);
    if (w.kind == INT4) product4<M>(w, first, x, row, out);
    else if (w.kind == INT8) product_of_rows<M, INT8>(w, first, count, x, row, out);
    else product_of_rows<M, BF16>(w, first, count, x, row, out);
    if (w.bias)
        for (int m = 0; m < M; m++)
            for (int64_t n = 0; n < count; n++) out[m * BLOCK + n] += w.bias[first + n];
}
void product(const Matrix& w, int64_t first, const Source& x, int64_t row, int64_t m, float* out) {
    switch (m) {
        case 1: return product<1>(w, first, x, row, out);
        case 2: return product<2>(w, first, x, row, out);
        case 3: return product<3>(w, first, x, row, out);
        default: return product<SIDE>(w, first, x, row, out);
    }
}

void normalise(const Norm& norm, const float* x, int64_t C, bf16* y) {
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
        d = _mm512_mul_ps(_mm512_mul_ps(d, _mm512_set1_ps(factor)), _mm512_loadu_ps(norm.weight + c));
        store_bf16(y + c, norm.bias ? _mm512_add_ps(d, _mm512_loadu_ps(norm.bias + c)) : d);
    }
}

void rotate(float* head, const float* cos, const float* sin, int64_t D) {  // pairs lie in halves
    for (int64_t i = 0; i < D / 2; i++) {
        float a = head[i], b = head[i + D / 2];
        head[i] = a * cos[i] - b * sin[i];
        head[i + D / 2] = b * cos[i] + a * sin[i];
    }
}

void to_bf16(const float* from, bf16* to, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) store_bf16(to + i, _mm512_loadu_ps(from + i));
}

// One query head over the slots of its text: out (D) bfloat16.
void attend(const bf16* q, const bf16* keys, const bf16* values, int64_t count, int64_t D, float scale,
            std::vector<float>& scores, bf16* out) {
    scores.resize((count + 15) / 16 * 16);
    float most = -INFINITY;
    for (int64_t t = 0; t < count; t++) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t d = 0; d < D; d += 32) sum = _mm512_dpbf16_ps(sum, load_pairs(q + d), load_pairs(keys + t * D + d));
        scores[t] = _mm512_reduce_add_ps(sum) * scale;
        most = std::max(most, scores[t]);
    }
    std::fill(scores.begin() + count, scores.end(), -INFINITY);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t t = 0; t < count; t += 16) {
        __mmask16 there = count - t >= 16 ? 0xffff : __mmask16((1 << (count - t)) - 1);
        __m512 e = exp512(_mm512_sub_ps(_mm512_loadu_ps(&scores[t]), _mm512_set1_ps(most)));
        e = _mm512_maskz_mov_ps(there, e);
        _mm512_storeu_ps(&scores[t], e);
        sum = _mm512_add_ps(sum, e);
    }
    const __m512 share = _mm512_set1_ps(1 / _mm512_reduce_add_ps(sum));
    for (int64_t d = 0; d < D; d += 32) {
        __m512 a = _mm512_setzero_ps(), b = a;
        for (int64_t t = 0; t < count; t++) {
            __m512 weight = _mm512_set1_ps(scores[t]);
            a = _mm512_fmadd_ps(weight, load_floats(values + t * D + d), a);
            b = _mm512_fmadd_ps(weight, load_floats(values + t * D + d + 16), b);
        }
        store_bf16(out + d, _mm512_mul_ps(a, share));
        store_bf16(out + d + 16, _mm512_mul_ps(b, share));
    }
}

struct Step {
    const Model& model;
    const Row* rows;
    const int64_t M;
    const Cache* caches;
    float* logits;
    Team& team;
    std::vector<float> x, q, k, v;       // (M, C), (M, H * D), (M, K * D)
    std::vector<bf16> mixed, hidden;     // (M, H * D), (M, F)

    Step(const Model& model, const Row* rows, int64_t M, const Cache* caches, float* logits, Team& team)
        : model(model), rows(rows), M(M), caches(caches), logits(logits), team(team), x(M * model.dim),
          q(M * model.n_heads * model.head_dim), k(M * model.n_kv_heads * model.head_dim), v(k.size()),
          mixed(q.size()), hidden(M * model.hidden_dim) {}

    // Every thread takes its share of the blocks of these matrices. store(matrix, token row, first column, count, values)
    template <class Store>
    void multiply(int me, std::initializer_list<const Matrix*> matrices, const Source& source, int64_t M, Store&& store) {
        int64_t blocks = 0;
        for (const Matrix* w : matrices) blocks += (w->rows + BLOCK - 1) / BLOCK;
        const int64_t from = blocks * me / team.size, to = blocks * (me + 1) / team.size;
        alignas(64) float out[SIDE * BLOCK];
        int64_t before = 0, which = 0;
        for (const Matrix* w : matrices) {
            const int64_t n = (w->rows + BLOCK - 1) / BLOCK;
            for (int64_t b = std::max(from, before); b < std::min(to, before + n); b++)
                for (int64_t row = 0; row < M; row += SIDE) {
                    const int64_t m = std::min<int64_t>(SIDE, M - row), first = (b - before) * BLOCK;
                    product(*w, first, source, row, m, out);
                    for (int64_t i = 0; i < m; i++)
                        store(which, row + i, first, std::min<int64_t>(BLOCK, w->rows - first), out + i * BLOCK);
                }
            before += n, which++;
        }
    }

    void work(int me) {
        const int64_t C = model.dim, H = model.n_heads, K = model.n_kv_heads, D = model.head_dim, F = model.hidden_dim;
        std::vector<bf16> normed(M * C), query(D);
        std::vector<float> scores;
        Source source;
        auto norm = [&](const Norm& with) {  // each thread for itself: waiting for another would take longer
            for (int64_t r = 0; r < M; r++) normalise(with, &x[r * C], C, &normed[r * C]);
            source.take(normed.data(), M, C);
        };
        auto add = [&](int64_t, int64_t r, int64_t first, int64_t n, const float* y) {
            for (int64_t i = 0; i < n; i++) x[r * C + first + i] += y[i];
        };
        if (me == 0)
            for (int64_t r = 0; r < M; r++)
                for (int64_t c = 0; c < C; c++) {
                    x[r * C + c] = to_float(model.embedding[rows[r].token * C + c]);
                    if (model.position_embedding)
                        x[r * C + c] += to_float(model.position_embedding[(rows[r].slot - rows[r].start) * C + c]);
                }
        team.meet();
        for (int64_t l = 0; l < model.n_layers; l++) {
            const Layer& layer = model.layers[l];
            const Cache& cache = caches[l];
            norm(layer.attention_norm);
            multiply(me, {&layer.query, &layer.key, &layer.value}, source, M,
                     [&](int64_t which, int64_t r, int64_t first, int64_t n, const float* y) {
                         auto& to = which == 0 ? q : which == 1 ? k : v;
                         std::memcpy(&to[r * (which == 0 ? H : K) * D + first], y, n * sizeof(float));
                     });
            team.meet();
            for (int64_t i = me; i < M * K; i += team.size) {  // keys and values into the cache
                const Row& row = rows[i / K];
                const int64_t place = ((row.text * K + i % K) * cache.capacity + row.slot) * D;
                const int64_t position = row.slot - row.start;
                if (model.cos) rotate(&k[i * D], model.cos + position * D / 2, model.sin + position * D / 2, D);
                to_bf16(&k[i * D], cache.keys + place, D);
                to_bf16(&v[i * D], cache.values + place, D);
            }
            team.meet();
            for (int64_t i = me; i < M * H; i += team.size) {
                const Row& row = rows[i / H];
                const int64_t head = i % H / (H / K), position = row.slot - row.start;
                const int64_t place = ((row.text * K + head) * cache.capacity + row.start) * D;
                if (model.cos) rotate(&q[i * D], model.cos + position * D / 2, model.sin + position * D / 2, D);
                to_bf16(&q[i * D], query.data(), D);
                attend(query.data(), cache.keys + place, cache.values + place, position + 1, D, layer.scale, scores,
                       &mixed[i * D]);
            }
            team.meet();
            source.take(mixed.data(), M, H * D);
            multiply(me, {&layer.output}, source, M, add);
            team.meet();
            norm(layer.feed_forward_norm);
            feed_forward(me, layer, source);
            team.meet();
            source.take(hidden.data(), M, F);
            multiply(me, {&layer.down}, source, M, add);
            team.meet();
        }
        int64_t wanted = 0;
        for (int64_t r = 0; r < M; r++)
            if (rows[r].wanted) normalise(model.norm, &x[r * C], C, &normed[wanted++ * C]);
        source.take(normed.data(), wanted, C);
        multiply(me, {&model.output}, source, wanted, [&](int64_t, int64_t r, int64_t first, int64_t n, const float* y) {
            std::memcpy(logits + r * model.output.rows + first, y, n * sizeof(float));
        });
    }

    void feed_forward(int me, const Layer& layer, const Source& source) {
        const int64_t F = model.hidden_dim;
        alignas(64) float opened[SIDE * BLOCK];
        int64_t row_of_gate = -1;
        multiply(me, {&layer.up}, source, M, [&](int64_t, int64_t r, int64_t first, int64_t n, const float* y) {
            bf16* to = &hidden[r * F + first];
            if (!layer.gate.numbers) {
                for (int64_t i = 0; i < n; i += 16) {  // GELU by tanh: u * sigmoid(2 * ...)
                    __m512 u = _mm512_loadu_ps(y + i), cube = _mm512_mul_ps(_mm512_mul_ps(u, u), u);
                    __m512 z = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), u);
                    __m512 e = exp512(_mm512_min_ps(_mm512_mul_ps(z, _mm512_set1_ps(-1.5957691216f)), _mm512_set1_ps(87.0f)));
                    store_bf16(to + i, _mm512_div_ps(u, _mm512_add_ps(e, _mm512_set1_ps(1))));
                }
                return;
            }
            if (r % SIDE == 0) {
                product(layer.gate, first, source, r, std::min<int64_t>(SIDE, M - r), opened);
                row_of_gate = r;
            }
            const float* gate = opened + (r - row_of_gate) * BLOCK;
            for (int64_t i = 0; i < n; i += 16) {
                __m512 g = _mm512_loadu_ps(gate + i);
                __m512 e = exp512(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), g), _mm512_set1_ps(87.0f)));
                __m512 open = _mm512_div_ps(g, _mm512_add_ps(e, _mm512_set1_ps(1)));
                store_bf16(to + i, _mm512_mul_ps(open, _mm512_loadu_ps(y + i)));
            }
        });
    }
};

}  // namespace

extern "C" {
// Sizes of the structures, to be held against those of program.py.
int64_t layout() { return sizeof(Layer) * 1000000 + sizeof(Model) * 1000 + sizeof(Matrix); }

void* make_team(int64_t size) { return new Team(int(size)); }

// rows (M), caches (n_layers), logits (rows that are wanted, V) float32. The keys and values of the rows are written into the caches.
void step(const Model* model, const Row* rows, int64_t M, const Cache* caches, float* logits, void* team) {
    Step one(*model, rows, M, caches, logits, *(Team*)team);
    ((Team*)team)->run([&](int me) { one.work(me); });
}
}
