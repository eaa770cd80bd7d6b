/* One position of the transformer for a few images at once, in one call: the default parts of model/transformer.py,
   operation by operation. c_decoder.py compiles this file.

   Shapes: B images, T positions, C channels, h heads of size d, V colors, L blocks. Everything is float32 and
   contiguous. Matrices have the layout of nn.Linear, one row per output. */

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    int64_t n_layer, n_head, n_embd, n_positions, vocab_size;
    float eps;
} Shape;

/* e^x = 2^k e^r, where r = x - k ln 2 is between -ln 2 / 2 and ln 2 / 2. There, the series up to r^6 is accurate to two
   units in the last place. A call of expf would keep the compiler from vectorizing the loop around it. */
static inline float exponential(float x) {
    x = x > -87 ? x : -87;
    x = x < 88 ? x : 88;
    int32_t k = (int32_t)(x * 1.44269504f + 128.5f) - 128, bits;
    float r = x - k * 0.69314718f;
    float e = 1 + r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r / 720)))));
    memcpy(&bits, &e, sizeof bits);
    bits += k * (1 << 23); /* adds k to the exponent of e */
    memcpy(&e, &bits, sizeof bits);
    return e;
}

static inline float dot(const float *a, const float *b, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* y (B, C) = x / rms(x) * gain */
static void norm(const float *x, const float *gain, float *restrict y, int64_t B, int64_t C, float eps) {
    for (int64_t b = 0; b < B; b++, x += C, y += C) {
        float scale = 1 / sqrtf(dot(x, x, C) / C + eps);
        for (int64_t j = 0; j < C; j++) y[j] = x[j] * scale * gain[j];
    }
}

/* y (B, n) = x (B, m) W^T, added to y if `add`. A row of W (n, m) is read once for all images. */
static void linear(const float *W, const float *x, float *restrict y, int64_t B, int64_t n, int64_t m, bool add) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t b = 0; b < B; b++) y[b * n + i] = (add ? y[b * n + i] : 0) + dot(W + i * m, x + b * m, m);
}

/* y (d) = softmax(q K^T / sqrt(d)) V for one query and n keys and values (n, d); p (n) is a work space. */
static void attend(const float *q, const float *K, const float *V, float *restrict y, float *restrict p, int64_t n,
                   int64_t d) {
    float scale = 1 / sqrtf(d), largest = -INFINITY, total = 0;
    for (int64_t t = 0; t < n; t++) p[t] = scale * dot(q, K + t * d, d);
    for (int64_t t = 0; t < n; t++) largest = p[t] > largest ? p[t] : largest;
    for (int64_t t = 0; t < n; t++) total += p[t] = exponential(p[t] - largest);
    memset(y, 0, d * sizeof(float));
    for (int64_t t = 0; t < n; t++)
        for (int64_t j = 0; j < d; j++) y[j] += p[t] * V[t * d + j];
    for (int64_t j = 0; j < d; j++) y[j] /= total;
}

/* Logits (B, V) of what comes after tokens (B), which are at `position`. False if there is no such position or token.

   weights: embeddings of tokens and positions; gain, qkv, out, gain, fc, out of each block; gain, head.
   keys_values: 2 L arrays (B, h, T, d), keys and values alternating, filled up to `position`, which is added.
   work: a work space of 6 B C + T numbers. */
bool next_logits(const Shape *shape, const float *const *weights, float *const *keys_values, const int64_t *tokens,
                 int64_t B, int64_t position, float *work, float *logits) {
    int64_t C = shape->n_embd, T = shape->n_positions, h = shape->n_head, d = C / h;
    float *x = work, *y = x + B * C, *wide = y + B * C, *scores = wide + 4 * B * C;
    const float *embedding = *weights++, *positions = *weights++;
    if (position >= T) return false;
    for (int64_t b = 0; b < B; b++) {
        if (tokens[b] < 0 || tokens[b] >= shape->vocab_size) return false;
        for (int64_t j = 0; j < C; j++) x[b * C + j] = embedding[tokens[b] * C + j] + positions[position * C + j];
    }
    for (int64_t l = 0; l < shape->n_layer; l++, weights += 6) {
        norm(x, weights[0], y, B, C, shape->eps);
        linear(weights[1], y, wide, B, 3 * C, C, false);
        for (int64_t i = 0; i < B * h; i++) { /* head i % h of image i / h */
            float *q = wide + i / h * 3 * C + i % h * d;
            float *K = keys_values[2 * l] + i * T * d, *V = keys_values[2 * l + 1] + i * T * d;
            memcpy(K + position * d, q + C, d * sizeof(float));
            memcpy(V + position * d, q + 2 * C, d * sizeof(float));
            attend(q, K, V, y + i * d, scores, position + 1, d);
        }
        linear(weights[2], y, x, B, C, C, true);
        norm(x, weights[3], y, B, C, shape->eps);
        linear(weights[4], y, wide, B, 4 * C, C, false);
        for (int64_t j = 0; j < 4 * B * C; j++) wide[j] /= 1 + exponential(-1.702f * wide[j]); /* quick GELU */
        linear(weights[5], wide, x, B, C, 4 * C, true);
    }
    norm(x, weights[0], y, B, C, shape->eps);
    linear(weights[1], y, logits, B, shape->vocab_size, C, false);
    return true;
}
