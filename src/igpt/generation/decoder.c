/* One position of the transformer for a few images at once, in one call: the parts of model/transformer.py, variants.py,
   mlps.py and rotary.py, operation by operation. c_decoder.py compiles this file.

   Shapes: B images, T positions, C channels, M channels inside the MLP, h heads of size d, V colors, L blocks.
   Everything is float32 and contiguous. Matrices have the layout of nn.Linear, one row per output. */

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef enum { QUICK_GELU, GELU, RELU2, SWIGLU } Activation;

typedef struct {
    int64_t n_layer, n_head, n_embd, n_hidden, n_positions, vocab_size, activation;
    float eps, softcap; /* a softcap of 0 is none */
} Shape;

/* A part that the model does not have is NULL. */
typedef struct {
    const float *tokens, *positions, *embedding_gain; /* (V, C), (T, C), (C) */
    const float *cos, *sin;                           /* (T, d) */
    const float *token_values;                        /* (V + 1, C) */
    const float *gain, *head;                         /* (C), (V, C) */
} Weights;

typedef struct {
    const float *shortcut;                        /* (2): of the residual stream and of the first block's input */
    const float *attn_gain, *qkv, *q_gain, *k_gain; /* (C), (3 C, C), (d), (d) */
    const float *value_mix; /* (3): of the block's own values, of those of the first block, of those of the token */
    const float *attn_out;  /* (C, C) */
    const float *mlp_gain, *fc, *gate, *mlp_out; /* (C), (M, C), (M, C), (C, M) */
} BlockWeights;

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

/* y (B, C) = x / rms(x) * gain; y may be x */
static void norm(const float *x, const float *gain, float *y, int64_t B, int64_t C, float eps) {
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

/* x (h, d), turned by a position's angles (d): channels i and i + d / 2 are a pair */
static void rotate(float *x, const float *cos, const float *sin, int64_t h, int64_t d) {
    for (int64_t i = 0; i < h; i++, x += d)
        for (int64_t j = 0, k = d / 2; k < d; j++, k++) {
            float first = x[j], second = x[k];
            x[j] = first * cos[j] + second * sin[j];
            x[k] = second * cos[k] + first * sin[k];
        }
}

/* y (n) = a x + b z */
static void mix(float a, const float *x, float b, const float *z, float *y, int64_t n) {
    for (int64_t j = 0; j < n; j++) y[j] = a * x[j] + b * z[j];
}

/* x (n) = activation(x), multiplied by or with a gate (n) in SwiGLU */
static void activate(Activation activation, float *restrict x, const float *restrict gate, int64_t n) {
    switch (activation) {
    case QUICK_GELU:
        for (int64_t j = 0; j < n; j++) x[j] /= 1 + exponential(-1.702f * x[j]);
        break;
    case GELU:
        for (int64_t j = 0; j < n; j++) x[j] *= 0.5f + 0.5f * erff(x[j] * 0.70710678f);
        break;
    case RELU2:
        for (int64_t j = 0; j < n; j++) x[j] = x[j] > 0 ? x[j] * x[j] : 0;
        break;
    case SWIGLU:
        for (int64_t j = 0; j < n; j++) x[j] *= gate[j] / (1 + exponential(-gate[j]));
        break;
    }
}

/* Logits (B, V) of what comes after tokens (B), which are at `position`. False if there is no such position or token.

   keys_values: 2 L arrays (B, h, T, d), keys and values alternating, filled up to `position`, which is added.
   work: a work space of 7 B C + 2 B M + T numbers. */
bool next_logits(const Shape *shape, const Weights *weights, const BlockWeights *blocks, float *const *keys_values,
                 const int64_t *tokens, int64_t B, int64_t position, float *work, float *logits) {
    int64_t C = shape->n_embd, M = shape->n_hidden, T = shape->n_positions, h = shape->n_head, d = C / h;
    float *x = work, *first = x + B * C, *y = first + B * C, *first_values = y + B * C, *qkv = first_values + B * C;
    float *hidden = qkv + 3 * B * C, *gate = hidden + B * M, *scores = gate + B * M;
    if (position >= T) return false;
    for (int64_t b = 0; b < B; b++) {
        if (tokens[b] < 0 || tokens[b] >= shape->vocab_size) return false;
        memcpy(x + b * C, weights->tokens + tokens[b] * C, C * sizeof(float));
        if (weights->positions) mix(1, x + b * C, 1, weights->positions + position * C, x + b * C, C);
    }
    if (weights->embedding_gain) norm(x, weights->embedding_gain, x, B, C, shape->eps);
    memcpy(first, x, B * C * sizeof(float));
    for (int64_t l = 0; l < shape->n_layer; l++, blocks++) {
        if (blocks->shortcut) mix(blocks->shortcut[0], x, blocks->shortcut[1], first, x, B * C);
        norm(x, blocks->attn_gain, y, B, C, shape->eps);
        linear(blocks->qkv, y, qkv, B, 3 * C, C, false);
        for (int64_t b = 0; b < B; b++) {
            float *q = qkv + b * 3 * C, *k = q + C, *v = k + C, *v_first = first_values + b * C;
            if (blocks->q_gain) norm(q, blocks->q_gain, q, h, d, shape->eps), norm(k, blocks->k_gain, k, h, d, shape->eps);
            if (weights->cos) {
                const float *cos = weights->cos + position * d, *sin = weights->sin + position * d;
                rotate(q, cos, sin, h, d), rotate(k, cos, sin, h, d);
            }
            if (l == 0) memcpy(v_first, v, C * sizeof(float));
            if (blocks->value_mix) {
                mix(blocks->value_mix[0], v, blocks->value_mix[1], v_first, v, C);
                if (weights->token_values) mix(1, v, blocks->value_mix[2], weights->token_values + tokens[b] * C, v, C);
            }
            for (int64_t i = 0; i < h; i++) {
                float *K = keys_values[2 * l] + (b * h + i) * T * d, *V = keys_values[2 * l + 1] + (b * h + i) * T * d;
                memcpy(K + position * d, k + i * d, d * sizeof(float));
                memcpy(V + position * d, v + i * d, d * sizeof(float));
                attend(q + i * d, K, V, y + b * C + i * d, scores, position + 1, d);
            }
        }
        linear(blocks->attn_out, y, x, B, C, C, true);
        norm(x, blocks->mlp_gain, y, B, C, shape->eps);
        linear(blocks->fc, y, hidden, B, M, C, false);
        if (blocks->gate) linear(blocks->gate, y, gate, B, M, C, false);
        activate(shape->activation, hidden, gate, B * M);
        linear(blocks->mlp_out, hidden, x, B, C, M, true);
    }
    norm(x, weights->gain, y, B, C, shape->eps);
    linear(weights->head, y, logits, B, shape->vocab_size, C, false);
    if (shape->softcap)
        for (int64_t j = 0; j < B * shape->vocab_size; j++) logits[j] = shape->softcap * tanhf(logits[j] / shape->softcap);
    return true;
}
