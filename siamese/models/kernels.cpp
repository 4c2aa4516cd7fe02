// Batch statistics; scaling, 2x2 max-pooling and ReLU as one operation; scaling, addition and ReLU as another; and the
// first of these after a 3x3 convolution of the images; with their gradients. Also parts of the gradients of average
// pooling and of 3x3 convolutions, and Winograd's convolution.
//
// Feature maps are channels-last, [images][H][W][C], float32 or bf16 (Winograd's: float32); arithmetic is float32. Each
// function goes through the maps once, with one thread per image. Results do not depend on the number of threads; only
// the gradient of Winograd's kernels does, by rounding.

#include <cstdint>
#include <cstring>
#include <vector>

// Functions are compiled for several processors; the loader selects the fastest version for the current one.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
// For matrix products; "avx2" lacks the instructions that multiply and add.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#define FOR_EACH_PROCESSOR_FMA __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define FOR_EACH_PROCESSOR_FMA FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

namespace {

struct bf16 {
    uint16_t bits;
};

INLINE float load(const float *p) { return *p; }
INLINE float load(const bf16 *p) {
    uint32_t bits = uint32_t(p->bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE void store(float *p, float value) { *p = value; }
INLINE void store(bf16 *p, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
    p->bits = uint16_t(value != value ? 0x7fc0 : rounded);
}

constexpr long BLOCK = 64;  // pixels and channels per block, so that values read twice stay in the L1 cache

// Update mean and sum of squared deviations of `n` <= BLOCK channels, after `before` pixels, with `pixels` more.
template <typename T>
INLINE void join_block(const T *x, long pixels, long stride, long n, long before, float *mean, float *m2) {
    float sum[BLOCK] = {0}, square[BLOCK] = {0};
    for (long p = 0; p < pixels; ++p)
        for (long c = 0; c < n; ++c) sum[c] += load(x + p * stride + c);
    for (long c = 0; c < n; ++c) sum[c] /= float(pixels);
    for (long p = 0; p < pixels; ++p)
        for (long c = 0; c < n; ++c) {
            float d = load(x + p * stride + c) - sum[c];
            square[c] += d * d;
        }
    float all = float(before + pixels), weight = float(pixels) / all;
    for (long c = 0; c < n; ++c) {  // Chan, Golub and LeVeque (1979)
        float delta = sum[c] - mean[c];
        mean[c] += delta * weight;
        m2[c] += square[c] + delta * delta * float(before) * weight;
    }
}

template <typename T>
INLINE void image_moments(const T *x, long pixels, long channels, float *mean, float *m2) {
    for (long c = 0; c < channels; ++c) mean[c] = m2[c] = 0;
    for (long p = 0; p < pixels; p += BLOCK) {
        long rows = pixels - p < BLOCK ? pixels - p : BLOCK;
        for (long c = 0; c < channels; c += BLOCK) {
            const T *block = x + p * channels + c;
            if (channels - c >= BLOCK)  // the compiler can unroll a constant length
                join_block(block, rows, channels, BLOCK, p, mean + c, m2 + c);
            else
                join_block(block, rows, channels, channels - c, p, mean + c, m2 + c);
        }
    }
}

// The largest of four numbers, its position, and what it was computed from. Like PyTorch, choose the first of several
// equal maxima, and NaN over any number.
struct Largest {
    float value, raw;
    uint32_t place;

    __attribute__((always_inline)) void join(float z, float v, uint32_t at) {
        bool larger = (z > value) | (z != z);
        value = larger ? z : value, raw = larger ? v : raw, place = larger ? at : place;
    }
};

// Pool the windows at one position, for all channels. `where` gets the position of the maximum, 0 to 3 row by row, or 4
// if ReLU sets it to 0; `largest` gets the element of x at that position. Both are null if no gradient is needed.
template <typename T, bool KEEP>
INLINE void window_pool(
    const T *__restrict x0, const T *__restrict x2, long channels, const float *__restrict scale,
    const float *__restrict shift, T *__restrict y, uint8_t *__restrict where, T *__restrict largest
) {
    const T *__restrict x1 = x0 + channels, *__restrict x3 = x2 + channels;
#pragma omp simd
    for (long c = 0; c < channels; ++c) {
        float a = scale[c], b = shift[c];
        float v0 = load(x0 + c), v1 = load(x1 + c), v2 = load(x2 + c), v3 = load(x3 + c);
        Largest best = {a * v0 + b, v0, 0};
        best.join(a * v1 + b, v1, 1), best.join(a * v2 + b, v2, 2), best.join(a * v3 + b, v3, 3);
        store(y + c, best.value < 0 ? 0 : best.value);
        if (KEEP) {
            where[c] = uint8_t(best.value <= 0 ? 4 : best.place);
            store(largest + c, best.raw);
        }
    }
}

template <typename T, bool KEEP>
INLINE void image_pool(
    const T *x, long height, long width, long channels, const float *scale, const float *shift, T *y, uint8_t *where,
    T *largest
) {
    long h = height / 2, w = width / 2;
    for (long i = 0; i < h; ++i)
        for (long j = 0; j < w; ++j) {
            const T *first = x + (2 * i * width + 2 * j) * channels;
            long at = (i * w + j) * channels;
            window_pool<T, KEEP>(
                first, first + width * channels, channels, scale, shift, y + at, where + at, largest + at
            );
        }
}

// Sums over one image of g and of g (x - mean), at the positions where the gradient g passes ReLU.
template <typename T>
INLINE void image_sums(
    const T *g, const uint8_t *where, const T *largest, const float *mean, long pixels, long channels, float *sum,
    float *product
) {
    for (long c = 0; c < channels; ++c) sum[c] = product[c] = 0;
    for (long p = 0; p < pixels; ++p)
#pragma omp simd
        for (long c = 0; c < channels; ++c) {
            long at = p * channels + c;
            float value = where[at] == 4 ? 0.0f : load(g + at);
            sum[c] += value;
            product[c] += value * (load(largest + at) - mean[c]);
        }
}

// gx = scale * (g at the position of the maximum, else 0) + constant + linear * x, for the four pixels of a window.
template <typename T>
INLINE void window_gradient(
    const T *__restrict x0, const T *__restrict x2, const T *__restrict g, const uint8_t *__restrict where,
    long channels, const float *__restrict scale, const float *__restrict constant, const float *__restrict linear,
    T *__restrict gx0, T *__restrict gx2
) {
    const T *__restrict x1 = x0 + channels, *__restrict x3 = x2 + channels;
    T *__restrict gx1 = gx0 + channels, *__restrict gx3 = gx2 + channels;
#pragma omp simd
    for (long c = 0; c < channels; ++c) {
        float passed = scale[c] * load(g + c), k = constant[c], l = linear[c];
        uint32_t place = where[c];
        store(gx0 + c, k + l * load(x0 + c) + (place == 0 ? passed : 0.0f));
        store(gx1 + c, k + l * load(x1 + c) + (place == 1 ? passed : 0.0f));
        store(gx2 + c, k + l * load(x2 + c) + (place == 2 ? passed : 0.0f));
        store(gx3 + c, k + l * load(x3 + c) + (place == 3 ? passed : 0.0f));
    }
}

template <typename T>
INLINE void image_gradient(
    const T *x, const T *g, const uint8_t *where, long height, long width, long channels, const float *scale,
    const float *constant, const float *linear, T *gx
) {
    long h = height / 2, w = width / 2, row = width * channels;
    for (long i = 0; i < h; ++i)
        for (long j = 0; j < w; ++j) {
            long at = (i * w + j) * channels, first = (2 * i * width + 2 * j) * channels;
            window_gradient(
                x + first, x + first + row, g + at, where + at, channels, scale, constant, linear, gx + first,
                gx + first + row
            );
        }
    for (long i = 0; i < height; ++i)  // an odd last row or column is in no window
        for (long j = i < 2 * h ? 2 * w : 0; j < width; ++j)
            for (long c = 0; c < channels; ++c) {
                long o = (i * width + j) * channels + c;
                store(gx + o, constant[c] + linear[c] * load(x + o));
            }
}

// y = scale * x + shift, plus `other` with ADD, but at least `floor`: 0 for ReLU, or -infinity.
template <typename T, bool ADD>
INLINE void image_scale(
    const T *__restrict x, const T *__restrict other, long pixels, long channels, const float *__restrict scale,
    const float *__restrict shift, float floor, T *__restrict y
) {
    for (long p = 0; p < pixels; ++p)
#pragma omp simd
        for (long c = 0; c < channels; ++c) {
            long at = p * channels + c;
            float value = scale[c] * load(x + at) + shift[c];
            if (ADD) value += load(other + at);
            store(y + at, value < floor ? floor : value);
        }
}

// Sums over one image of g and of g (x - mean), where y is above the floor.
template <typename T>
INLINE void image_scale_sums(
    const T *__restrict x, const T *__restrict y, const T *__restrict g, const float *__restrict mean, long pixels,
    long channels, float floor, float *__restrict sum, float *__restrict product
) {
    for (long c = 0; c < channels; ++c) sum[c] = product[c] = 0;
    for (long p = 0; p < pixels; ++p)
#pragma omp simd
        for (long c = 0; c < channels; ++c) {
            long at = p * channels + c;
            float value = load(y + at) <= floor ? 0.0f : load(g + at);
            sum[c] += value;
            product[c] += value * (load(x + at) - mean[c]);
        }
}

// gx = scale * g + constant + linear * x, with g = 0 where y is not above the floor; with ADD, `other` gets this g.
template <typename T, bool ADD>
INLINE void image_scale_gradient(
    const T *__restrict x, const T *__restrict y, const T *__restrict g, long pixels, long channels,
    const float *__restrict scale, const float *__restrict constant, const float *__restrict linear, float floor,
    T *__restrict gx, T *__restrict other
) {
    for (long p = 0; p < pixels; ++p)
#pragma omp simd
        for (long c = 0; c < channels; ++c) {
            long at = p * channels + c;
            float value = load(y + at) <= floor ? 0.0f : load(g + at);
            store(gx + at, scale[c] * value + constant[c] + linear[c] * load(x + at));
            if (ADD) store(other + at, value);
        }
}

// The first layer of a network: a 3x3 convolution of grey images [H][W], with padding 1.
//
// Its result is the largest map of a network, and takes longer to write and read than to compute. So it is not stored:
// its statistics follow from sums over the taps (the 9 pixels that a result depends on) and over products of two taps.

constexpr long LANES = 16;  // channels that are computed together; `siamese/models/winograd.py` has the same number

constexpr long TAPS = 9;

// An image with a border of zeros, minus a number. (Otherwise, float32 sums would lose the contrast of bright images.)
struct Framed {
    long height, width, row;
    std::vector<float> pixels;

    Framed(const float *x, long height, long width, float minus)
        : height(height), width(width), row(width + 2), pixels((height + 2) * (width + 2), -minus) {
        for (long i = 0; i < height; ++i)
            for (long j = 0; j < width; ++j) pixels[(i + 1) * row + j + 1] = x[i * width + j] - minus;
    }

    // Tap k of the first pixel.
    const float *tap(long k) const { return pixels.data() + k / 3 * row + k % 3; }
};

// The sum over an image of a, or of a b. Float32 holds the sum of a row.
template <bool PRODUCT>
INLINE double image_sum(const Framed &x, const float *a, const float *b) {
    double total = 0;
    for (long i = 0; i < x.height; ++i, a += x.row, b += x.row) {
        float of_row = 0;
#pragma omp simd reduction(+ : of_row)
        for (long j = 0; j < x.width; ++j) of_row += PRODUCT ? a[j] * b[j] : a[j];
        total += of_row;
    }
    return total;
}

// Sums over an image of its taps, and of products of two taps.
INLINE void image_taps(const Framed &x, double *sum, double *product) {
    for (long k = 0; k < TAPS; ++k) {
        sum[k] = image_sum<false>(x, x.tap(k), x.tap(k));
        for (long l = 0; l <= k; ++l) {
            double total = image_sum<true>(x, x.tap(k), x.tap(l));
            product[k * TAPS + l] = product[l * TAPS + k] = total;
        }
    }
}

// The taps of the 2x2 window in row i and column j: 4 x 4 pixels.
struct Patch {
    float at[16];

    __attribute__((always_inline)) Patch(const Framed &x, long i, long j) {
        for (long k = 0; k < 16; ++k) at[k] = x.pixels[(2 * i + k / 4) * x.row + 2 * j + k % 4];
    }
};

// ReLU of the maxima of `weight` [9][out] applied to the taps of a 2x2 window, plus `shift`, for n <= LANES channels of
// the result. `where` is as in window_pool.
template <typename T, bool KEEP>
INLINE void window_stem(
    const Patch &patch, const float *__restrict weight, const float *__restrict shift, long out, long n,
    T *__restrict y, uint8_t *__restrict where
) {
    float best[LANES];
    uint32_t place[LANES];  // in numbers of 8 bits, the compiler would make the loop 64 channels long
#pragma omp simd
    for (long c = 0; c < n; ++c) {
        float z0 = shift[c], z1 = z0, z2 = z0, z3 = z0;
#pragma GCC unroll 9
        for (long k = 0; k < TAPS; ++k) {
            const float *p = patch.at + k / 3 * 4 + k % 3;
            float w = weight[k * out + c];
            z0 += w * p[0], z1 += w * p[1], z2 += w * p[4], z3 += w * p[5];
        }
        Largest found = {z0, z0, 0};
        found.join(z1, z1, 1), found.join(z2, z2, 2), found.join(z3, z3, 3);
        best[c] = found.value < 0 ? 0 : found.value;
        if (KEEP) place[c] = found.value <= 0 ? 4 : found.place;
    }
#pragma omp simd
    for (long c = 0; c < n; ++c) store(y + c, best[c]);
    if (!KEEP) return;
#pragma omp simd
    for (long c = 0; c < n; ++c) where[c] = uint8_t(place[c]);
}

template <typename T, bool KEEP>
INLINE void image_stem(const Framed &x, const float *weight, const float *shift, long out, T *y, uint8_t *where) {
    for (long i = 0; i < x.height / 2; ++i)
        for (long j = 0; j < x.width / 2; ++j, y += out, where += KEEP ? out : 0) {
            Patch patch(x, i, j);
            for (long c = 0; c < out; c += LANES) {
                const float *w = weight + c, *b = shift + c;
                if (out - c >= LANES)  // the compiler can unroll a constant length
                    window_stem<T, KEEP>(patch, w, b, out, LANES, y + c, where + c);
                else
                    window_stem<T, KEEP>(patch, w, b, out, out - c, y + c, where + c);
            }
        }
}

// Add to sums of g and of its products with the taps [9][out], where the gradient g of a window passes ReLU.
template <typename T>
INLINE void window_stem_sums(
    const Patch &patch, const T *__restrict g, const uint8_t *__restrict where, long out, long n,
    float *__restrict sum, float *__restrict product
) {
    uint32_t places[LANES];
#pragma omp simd
    for (long c = 0; c < n; ++c) places[c] = where[c];
#pragma omp simd
    for (long c = 0; c < n; ++c) {
        float value = load(g + c);
        uint32_t place = places[c];
        float g0 = place == 0 ? value : 0.0f, g1 = place == 1 ? value : 0.0f;
        float g2 = place == 2 ? value : 0.0f, g3 = place == 3 ? value : 0.0f;
        sum[c] += place == 4 ? 0.0f : value;
#pragma GCC unroll 9
        for (long k = 0; k < TAPS; ++k) {
            const float *p = patch.at + k / 3 * 4 + k % 3;
            product[k * out + c] += g0 * p[0] + g1 * p[1] + g2 * p[4] + g3 * p[5];
        }
    }
}

template <typename T>
INLINE void image_stem_sums(
    const Framed &x, const T *g, const uint8_t *where, long out, float *sum, float *product
) {
    for (long c = 0; c < out; ++c) sum[c] = 0;
    for (long c = 0; c < TAPS * out; ++c) product[c] = 0;
    for (long i = 0; i < x.height / 2; ++i)
        for (long j = 0; j < x.width / 2; ++j, g += out, where += out) {
            Patch patch(x, i, j);
            for (long c = 0; c < out; c += LANES) {
                if (out - c >= LANES)
                    window_stem_sums(patch, g + c, where + c, out, LANES, sum + c, product + c);
                else
                    window_stem_sums(patch, g + c, where + c, out, out - c, sum + c, product + c);
            }
        }
}

// out = g + factor * p, for the channels of a pixel.
template <typename T>
INLINE void pixel_spread(const T *__restrict g, const T *__restrict p, float factor, long channels, T *__restrict out) {
#pragma omp simd
    for (long c = 0; c < channels; ++c) store(out + c, load(g + c) + factor * load(p + c));
}

// Add to the gradient g of a map the gradient p of its averages over windows of `stride` x `stride` pixels. At the last
// row and column, a window may have fewer pixels.
template <typename T>
INLINE void image_spread(const T *g, const T *p, long height, long width, long channels, long stride, T *out) {
    long columns = (width + stride - 1) / stride;
    for (long i = 0; i < height; ++i)
        for (long j = 0; j < width; ++j, g += channels, out += channels) {
            long top = i / stride * stride, left = j / stride * stride;
            long rows = height - top < stride ? height - top : stride;
            long pixels = width - left < stride ? rows * (width - left) : rows * stride;
            pixel_spread(g, p + (i / stride * columns + j / stride) * channels, 1.0f / float(pixels), channels, out);
        }
}

// The 3x3 windows of an image [H][W][C], with a border of zeros, at every `stride`-th pixel: [h][w][3][3][C].
template <typename T>
INLINE void image_columns(const T *x, long height, long width, long channels, long stride, T *columns) {
    for (long top = -1; top < height - 1; top += stride)
        for (long left = -1; left < width - 1; left += stride)
            for (long i = top; i < top + 3; ++i)
                for (long j = left; j < left + 3; ++j, columns += channels)
                    if (i < 0 || i >= height || j < 0 || j >= width)
                        std::memset(columns, 0, channels * sizeof(T));
                    else
                        std::memcpy(columns, x + (i * width + j) * channels, channels * sizeof(T));
}

// Winograd's convolution with 3x3 kernels and padding 1 (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural
// Networks", section 4): the result's tiles of M x M pixels depend on M + 2 x M + 2 pixels. A transform of both makes
// the convolution one product of matrices [tiles][C] x [C][O] for each of (M + 2)^2 positions. Each thread does all of
// this for its images, block by block of tiles. Up to about 64 channels, a block stays in the L2 cache of a core.

// The transforms of one axis with N = M + 2 pixels, by Toom and Cook's method with the first N - 1 of these points, and
// infinity. All entries are exact in float32. With 0.5 instead of -0.5, gradients that are mostly positive would have
// three times the rounding error. `siamese/models/winograd.py` has the same points for the kernels.
constexpr float POINTS[] = {0, 1, -1, 2, -2, -0.5f};

template <long M>
struct ToomCook {
    static constexpr long N = M + 2;
    float in[N][N], out[M][N];

    constexpr ToomCook() : in(), out() {
        for (long k = 0; k < N; ++k) {  // k = N - 1 is infinity
            in[k][0] = 1;  // coefficients of the product of x - p over the other points
            for (long j = 0, degree = 1; j < N - 1; ++j) {
                if (j == k) continue;
                for (long d = degree++; d >= 0; --d) in[k][d] = (d ? in[k][d - 1] : 0) - POINTS[j] * in[k][d];
            }
            float power = 1;
            for (long i = 0; i < M; ++i) {
                out[i][k] = k < N - 1 ? power : i == M - 1;
                power *= k < N - 1 ? POINTS[k] : 0;
            }
        }
    }
};

template <long M>
constexpr ToomCook<M> axis{};

// The four transforms; `FromResult` and `ToInput`, of the backward pass, are the other two transposed.
// Tiles of the input begin one pixel above and left of the image and overlap; those of the result do not.
template <long M>
struct FromInput {  // input -> tiles
    static constexpr long FROM = M + 2, TO = M + 2, STEP = M, BORDER = 1;
    static constexpr float at(long r, long k) { return axis<M>.in[r][k]; }
};
template <long M>
struct ToResult {  // products -> result
    static constexpr long FROM = M + 2, TO = M, STEP = M, BORDER = 0;
    static constexpr float at(long r, long k) { return axis<M>.out[r][k]; }
};
template <long M>
struct FromResult {  // gradient of the result -> tiles
    static constexpr long FROM = M, TO = M + 2, STEP = M, BORDER = 0;
    static constexpr float at(long r, long k) { return axis<M>.out[k][r]; }
};
template <long M>
struct ToInput {  // products -> gradient of the input
    static constexpr long FROM = M + 2, TO = M + 2, STEP = M, BORDER = 1;
    static constexpr float at(long r, long k) { return axis<M>.in[k][r]; }
};

// Copy n <= LANES channels.
INLINE void copy_lanes(float *to, const float *from, long n) {
    if (n == LANES)  // a constant length needs no call
        std::memcpy(to, from, LANES * sizeof(float));
    else
        std::memcpy(to, from, n * sizeof(float));
}

// L tile L^T for LANES channels, with the matrix L [TO][FROM]. Unrolled, so that the compiler drops products with 0.
template <typename L>
INLINE void transform(const float (&tile)[L::FROM * L::FROM][LANES], float (&result)[L::TO * L::TO][LANES]) {
    constexpr long FROM = L::FROM, TO = L::TO;
    float half[TO * FROM][LANES];
    for (long l = 0; l < FROM; ++l)
#pragma GCC unroll 16
        for (long r = 0; r < TO; ++r)
#pragma omp simd
            for (long c = 0; c < LANES; ++c) {
                float sum = 0;
#pragma GCC unroll 16
                for (long k = 0; k < FROM; ++k)
                    if (L::at(r, k) != 0) sum += L::at(r, k) * tile[k * FROM + l][c];
                half[r * FROM + l][c] = sum;
            }
    for (long r = 0; r < TO; ++r)
#pragma GCC unroll 16
        for (long s = 0; s < TO; ++s)
#pragma omp simd
            for (long c = 0; c < LANES; ++c) {
                float sum = 0;
#pragma GCC unroll 16
                for (long l = 0; l < FROM; ++l)
                    if (L::at(s, l) != 0) sum += L::at(s, l) * half[r * FROM + l][c];
                result[r * TO + s][c] = sum;
            }
}

// The part of a tile, from row or column `first` on, that is in an image with `length` rows or columns.
struct Inside {
    long from, to;
    Inside(long first, long size, long length)
        : from(first < 0 ? -first : 0), to(length - first < size ? length - first : size) {}
};

// Images [H][W][C] and their tiles, numbered from the first tile of the first image.
struct Tiled {
    float *x;
    long height, width, channels, across, of_image;

    Tiled(const float *x, long height, long width, long channels, long m)
        : x(const_cast<float *>(x)), height(height), width(width), channels(channels), across((width + m - 1) / m),
          of_image((height + m - 1) / m * across) {}

    long groups() const { return (channels + LANES - 1) / LANES; }
};

constexpr long ROWS = 6;  // ROWS x LANES sums and what they need fit into the registers of a processor with AVX2
constexpr long TILES = 4 * ROWS;

// Up to TILES transformed tiles, [positions][groups of LANES channels][TILES][LANES].
struct Block {
    float *tiles;
    long groups;

    long step() const { return (groups * TILES + 1) * LANES; }  // odd in cache lines: positions lie in different sets
    float *at(long position, long group) const { return tiles + position * step() + group * TILES * LANES; }
};

// Where a tile of SIDE x SIDE pixels lies.
template <typename L, long SIDE>
struct Window {
    long top, left;
    Inside rows, columns;
    float *image;

    Window(const Tiled &map, long tile)
        : top(tile % map.of_image / map.across * L::STEP - L::BORDER),
          left(tile % map.of_image % map.across * L::STEP - L::BORDER), rows(top, SIDE, map.height),
          columns(left, SIDE, map.width), image(map.x + tile / map.of_image * map.height * map.width * map.channels) {}

    bool is_whole() const { return rows.to - rows.from == SIDE && columns.to - columns.from == SIDE; }
    float *pixel(const Tiled &map, long i, long j) const {
        return image + ((top + i) * map.width + left + j) * map.channels;
    }
};

// Transform `n` tiles of the images, from tile `first` on.
template <typename L>
INLINE void images_to_tiles(const Tiled &map, long first, long n, const Block &block) {
    constexpr long FROM = L::FROM, TO = L::TO;
    for (long row = 0; row < n; ++row) {
        Window<L, FROM> window(map, first + row);
        for (long group = 0; group < block.groups; ++group) {
            float tile[FROM * FROM][LANES], found[TO * TO][LANES];
            long c = group * LANES, lanes = map.channels - c < LANES ? map.channels - c : LANES;
            if (lanes < LANES || !window.is_whole()) std::memset(tile, 0, sizeof tile);
            for (long i = window.rows.from; i < window.rows.to; ++i)
                for (long j = window.columns.from; j < window.columns.to; ++j)
                    copy_lanes(tile[i * FROM + j], window.pixel(map, i, j) + c, lanes);
            transform<L>(tile, found);
            for (long k = 0; k < TO * TO; ++k) std::memcpy(block.at(k, group) + row * LANES, found[k], sizeof found[k]);
        }
    }
}

// The reverse; where tiles overlap, the images, which must be 0 before, are their sums.
template <typename L>
INLINE void tiles_to_images(const Block &block, const Tiled &map, long first, long n) {
    constexpr long FROM = L::FROM, TO = L::TO;
    for (long row = 0; row < n; ++row) {
        Window<L, TO> window(map, first + row);
        for (long group = 0; group < block.groups; ++group) {
            float tile[FROM * FROM][LANES], found[TO * TO][LANES];
            long c = group * LANES, lanes = map.channels - c < LANES ? map.channels - c : LANES;
            for (long k = 0; k < FROM * FROM; ++k)
                std::memcpy(tile[k], block.at(k, group) + row * LANES, sizeof tile[k]);
            transform<L>(tile, found);
            for (long i = window.rows.from; i < window.rows.to; ++i)
                for (long j = window.columns.from; j < window.columns.to; ++j) {
                    float *pixel = window.pixel(map, i, j) + c;
                    if (TO > L::STEP)
                        for (long l = 0; l < lanes; ++l) pixel[l] += found[i * TO + j][l];
                    else
                        copy_lanes(pixel, found[i * TO + j], lanes);
                }
        }
    }
}

// sum[r][l] += a[r * row + k * step] b[k][l], for k < depth
template <long N>
INLINE void add_product(float (&sum)[N][LANES], const float *a, long row, long step, const float *b, long depth) {
    for (long k = 0; k < depth; ++k)
#pragma GCC unroll 8
        for (long r = 0; r < N; ++r)
#pragma omp simd
            for (long l = 0; l < LANES; ++l) sum[r][l] += a[r * row + k * step] * b[k * LANES + l];
}

// result = tiles x w at each position; w is [positions][groups of the result][C, rounded up to LANES][LANES].
INLINE void multiply(const Block &tiles, const float *w, const Block &result, long positions, long n) {
    for (long k = 0; k < positions; ++k)
        for (long group = 0; group < result.groups; ++group, w += tiles.groups * LANES * LANES)
            for (long row = 0; row < n; row += ROWS) {
                float sum[ROWS][LANES] = {};
                for (long c = 0; c < tiles.groups; ++c)
                    add_product(sum, tiles.at(k, c) + row * LANES, LANES, 1, w + c * LANES * LANES, LANES);
                std::memcpy(result.at(k, group) + row * LANES, sum, sizeof sum);
            }
}

template <long N>
INLINE void add_gradient(const float *tiles, const float *gradient, long n, float *gw) {
    float sum[N][LANES] = {};
    add_product(sum, tiles, 1, LANES, gradient, n);
    for (long r = 0; r < N; ++r)
        for (long l = 0; l < LANES; ++l) gw[r * LANES + l] += sum[r][l];
}

// gw += tiles^T x gradient at each position; gw is laid out as w above.
INLINE void multiply_transposed(const Block &tiles, const Block &gradient, float *gw, long positions, long n) {
    static_assert(LANES == 2 * ROWS + 4, "the last product has the remaining rows");
    for (long k = 0; k < positions; ++k)
        for (long group = 0; group < gradient.groups; ++group)
            for (long c = 0; c < tiles.groups; ++c, gw += LANES * LANES) {
                const float *a = tiles.at(k, c), *b = gradient.at(k, group);
                add_gradient<ROWS>(a, b, n, gw);
                add_gradient<ROWS>(a + ROWS, b, n, gw + ROWS * LANES);
                add_gradient<4>(a + 2 * ROWS, b, n, gw + 2 * ROWS * LANES);
            }
}

// Two blocks in memory of this thread. It is kept: new memory for each call would take as long again.
struct Blocks {
    Block of_x, of_y;

    Blocks(long positions, long x_groups, long y_groups) : of_x{nullptr, x_groups}, of_y{nullptr, y_groups} {
        static thread_local std::vector<float> memory;
        long size = positions * of_x.step();
        if (long(memory.size()) < size + positions * of_y.step()) memory.resize(size + positions * of_y.step());
        of_x.tiles = memory.data();
        of_y.tiles = memory.data() + size;
    }
};

template <long M>
INLINE void winograd_forward(const Tiled &x, const float *w, const Tiled &y, long images) {
    constexpr long POSITIONS = (M + 2) * (M + 2);
    Blocks blocks(POSITIONS, x.groups(), y.groups());
    long all = images * x.of_image;
    for (long first = 0; first < all; first += TILES) {
        long n = all - first < TILES ? all - first : TILES;
        images_to_tiles<FromInput<M>>(x, first, n, blocks.of_x);
        multiply(blocks.of_x, w, blocks.of_y, POSITIONS, n);
        tiles_to_images<ToResult<M>>(blocks.of_y, y, first, n);
    }
}

// `w` is transposed. A null `gx.x` or `gw` means that this gradient is not needed.
template <long M>
INLINE void winograd_backward(
    const Tiled &x, const Tiled &g, const float *w, const Tiled &gx, float *gw, long images
) {
    constexpr long POSITIONS = (M + 2) * (M + 2);
    Blocks blocks(POSITIONS, x.groups(), g.groups());
    long all = images * x.of_image;
    if (gx.x) std::memset(gx.x, 0, images * x.height * x.width * x.channels * sizeof(float));
    if (gw) std::memset(gw, 0, POSITIONS * x.groups() * g.groups() * LANES * LANES * sizeof(float));
    for (long first = 0; first < all; first += TILES) {
        long n = all - first < TILES ? all - first : TILES;
        images_to_tiles<FromResult<M>>(g, first, n, blocks.of_y);
        if (gw) {
            images_to_tiles<FromInput<M>>(x, first, n, blocks.of_x);
            multiply_transposed(blocks.of_x, blocks.of_y, gw, POSITIONS, n);
        }
        if (gx.x) {
            multiply(blocks.of_y, w, blocks.of_x, POSITIONS, n);
            tiles_to_images<ToInput<M>>(blocks.of_x, gx, first, n);
        }
    }
}

FOR_EACH_PROCESSOR_FMA void winograd_forward_of(
    const Tiled &x, const float *w, const Tiled &y, long images, long m
) {
    if (m == 2)
        winograd_forward<2>(x, w, y, images);
    else if (m == 4)
        winograd_forward<4>(x, w, y, images);
    else
        winograd_forward<5>(x, w, y, images);
}

FOR_EACH_PROCESSOR_FMA void winograd_backward_of(
    const Tiled &x, const Tiled &g, const float *w, const Tiled &gx, float *gw, long images, long m
) {
    if (m == 2)
        winograd_backward<2>(x, g, w, gx, gw, images);
    else if (m == 4)
        winograd_backward<4>(x, g, w, gx, gw, images);
    else
        winograd_backward<5>(x, g, w, gx, gw, images);
}

FOR_EACH_PROCESSOR void taps_of(
    const float *x, long height, long width, float minus, double *sum, double *product
) {
    image_taps(Framed(x, height, width, minus), sum, product);
}

// The functions for one image, compiled for each processor and each type.
#define OF_IMAGE(T)                                                                                                    \
    FOR_EACH_PROCESSOR void moments_of(const T *x, long pixels, long channels, float *mean, float *m2) {               \
        image_moments(x, pixels, channels, mean, m2);                                                                  \
    }                                                                                                                  \
    FOR_EACH_PROCESSOR void pool_of(                                                                                   \
        const T *x, long height, long width, long channels, const float *scale, const float *shift, T *y,              \
        uint8_t *where, T *largest                                                                                     \
    ) {                                                                                                                \
        if (where)                                                                                                     \
            image_pool<T, true>(x, height, width, channels, scale, shift, y, where, largest);                          \
        else                                                                                                           \
            image_pool<T, false>(x, height, width, channels, scale, shift, y, where, largest);                         \
    }                                                                                                                  \
    FOR_EACH_PROCESSOR void sums_of(                                                                                   \
        const T *g, const uint8_t *where, const T *largest, const float *mean, long pixels, long channels, float *sum, \
        float *product                                                                                                 \
    ) {                                                                                                                \
        image_sums(g, where, largest, mean, pixels, channels, sum, product);                                           \
    }                                                                                                                  \
    FOR_EACH_PROCESSOR void gradient_of(                                                                               \
        const T *x, const T *g, const uint8_t *where, long height, long width, long channels, const float *scale,      \
        const float *constant, const float *linear, T *gx                                                              \
    ) {                                                                                                                \
        image_gradient(x, g, where, height, width, channels, scale, constant, linear, gx);                             \
    }                                                                                                                  \
    FOR_EACH_PROCESSOR void scale_of(                                                                                  \
        const T *x, const T *other, long pixels, long channels, const float *scale, const float *shift, float floor,   \
        T *y                                                                                                           \
    ) {                                                                                                                \
        if (other)                                                                                                     \
            image_scale<T, true>(x, other, pixels, channels, scale, shift, floor, y);                                  \
        else                                                                                                           \
            image_scale<T, false>(x, other, pixels, channels, scale, shift, floor, y);                                 \
    }                                                                                                                  \
    FOR_EACH_PROCESSOR void scale_sums_of(                                                                             \
        const T *x, const T *y, const T *g, const float *mean, long pixels, long channels, float floor, float *sum,    \
        float *product                                                                                                 \
    ) {                                                                                                                \
        image_scale_sums(x, y, g, mean, pixels, channels, floor, sum, product);                                        \
    }                                                                                                                  \
    FOR_EACH_PROCESSOR void scale_gradient_of(                                                                         \
        const T *x, const T *y, const T *g, long pixels, long channels, const float *scale, const float *constant,     \
        const float *linear, float floor, T *gx, T *other                                                              \
    ) {                                                                                                                \
        if (other)                                                                                                     \
            image_scale_gradient<T, true>(x, y, g, pixels, channels, scale, constant, linear, floor, gx, other);       \
        else                                                                                                           \
            image_scale_gradient<T, false>(x, y, g, pixels, channels, scale, constant, linear, floor, gx, other);      \
    }                                                                                                                  \
    FOR_EACH_PROCESSOR void stem_of(                                                                                   \
        const float *x, long height, long width, float minus, const float *weight, const float *shift, long out, T *y, \
        uint8_t *where                                                                                                 \
    ) {                                                                                                                \
        if (where)                                                                                                     \
            image_stem<T, true>(Framed(x, height, width, minus), weight, shift, out, y, where);                        \
        else                                                                                                           \
            image_stem<T, false>(Framed(x, height, width, minus), weight, shift, out, y, where);                       \
    }                                                                                                                  \
    FOR_EACH_PROCESSOR void stem_sums_of(                                                                              \
        const float *x, long height, long width, float minus, const T *g, const uint8_t *where, long out, float *sum,  \
        float *product                                                                                                 \
    ) {                                                                                                                \
        image_stem_sums(Framed(x, height, width, minus), g, where, out, sum, product);                                 \
    }                                                                                                                  \
    FOR_EACH_PROCESSOR void spread_of(                                                                                 \
        const T *g, const T *p, long height, long width, long channels, long stride, T *out                            \
    ) {                                                                                                                \
        image_spread(g, p, height, width, channels, stride, out);                                                      \
    }

OF_IMAGE(float)
OF_IMAGE(bf16)

struct Shape {
    long images, height, width, channels;

    long map() const { return height * width * channels; }
    long windows() const { return (height / 2) * (width / 2); }
    long pooled() const { return windows() * channels; }
};

template <typename T>
void moments(Shape s, const T *x, float *mean, float *m2, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b)
        moments_of(x + b * s.map(), s.height * s.width, s.channels, mean + b * s.channels, m2 + b * s.channels);
}

template <typename T>
void pool(
    Shape s, const T *x, const float *scale, const float *shift, T *y, uint8_t *where, T *largest, int threads
) {
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b) {
        long at = b * s.pooled();
        uint8_t *places = where ? where + at : nullptr;
        pool_of(
            x + b * s.map(), s.height, s.width, s.channels, scale, shift, y + at, places, where ? largest + at : nullptr
        );
    }
}

template <typename T>
void sums(
    Shape s, const T *g, const uint8_t *where, const T *largest, const float *mean, float *sum, float *product,
    int threads
) {
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b) {
        long at = b * s.pooled(), pixels = s.windows();
        float *sum_of = sum + b * s.channels, *product_of = product + b * s.channels;
        sums_of(g + at, where + at, largest + at, mean, pixels, s.channels, sum_of, product_of);
    }
}

template <typename T>
void gradient(
    Shape s, const T *x, const T *g, const uint8_t *where, const float *scale, const float *constant,
    const float *linear, T *gx, int threads
) {
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b) {
        long in = b * s.map(), out = b * s.pooled();
        gradient_of(
            x + in, g + out, where + out, s.height, s.width, s.channels, scale, constant, linear, gx + in
        );
    }
}

template <typename T>
void scale(
    Shape s, const T *x, const T *other, const float *factor, const float *shift, float floor, T *y, int threads
) {
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b) {
        long at = b * s.map();
        const T *added = other ? other + at : nullptr;
        scale_of(x + at, added, s.height * s.width, s.channels, factor, shift, floor, y + at);
    }
}

template <typename T>
void scale_sums(
    Shape s, const T *x, const T *y, const T *g, const float *mean, float floor, float *sum, float *product, int threads
) {
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b) {
        long at = b * s.map(), of = b * s.channels;
        scale_sums_of(x + at, y + at, g + at, mean, s.height * s.width, s.channels, floor, sum + of, product + of);
    }
}

template <typename T>
void scale_gradient(
    Shape s, const T *x, const T *y, const T *g, const float *scale, const float *constant, const float *linear,
    float floor, T *gx, T *other, int threads
) {
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b) {
        long at = b * s.map();
        T *added = other ? other + at : nullptr;
        scale_gradient_of(
            x + at, y + at, g + at, s.height * s.width, s.channels, scale, constant, linear, floor, gx + at, added
        );
    }
}

void taps(Shape s, const float *x, float minus, double *sum, double *product, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b)
        taps_of(x + b * s.map(), s.height, s.width, minus, sum + b * TAPS, product + b * TAPS * TAPS);
}

template <typename T>
void stem(
    Shape s, const float *x, float minus, const float *weight, const float *shift, long out, T *y, uint8_t *where,
    int threads
) {
    long pooled = s.windows() * out;
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b) {
        uint8_t *places = where ? where + b * pooled : nullptr;
        stem_of(x + b * s.map(), s.height, s.width, minus, weight, shift, out, y + b * pooled, places);
    }
}

template <typename T>
void stem_sums(
    Shape s, const float *x, float minus, const T *g, const uint8_t *where, long out, float *sum, float *product,
    int threads
) {
    long pooled = s.windows() * out;
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b)
        stem_sums_of(
            x + b * s.map(), s.height, s.width, minus, g + b * pooled, where + b * pooled, out, sum + b * out,
            product + b * TAPS * out
        );
}

template <typename T>
void spread(Shape s, const T *g, const T *p, long stride, T *out, int threads) {
    long averages = ((s.height + stride - 1) / stride) * ((s.width + stride - 1) / stride) * s.channels;
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b) {
        long at = b * s.map();
        spread_of(g + at, p + b * averages, s.height, s.width, s.channels, stride, out + at);
    }
}

template <typename T>
void columns(Shape s, const T *x, long stride, T *columns, int threads) {
    long size = ((s.height + stride - 1) / stride) * ((s.width + stride - 1) / stride) * 9 * s.channels;
#pragma omp parallel for num_threads(threads)
    for (long b = 0; b < s.images; ++b)
        image_columns(x + b * s.map(), s.height, s.width, s.channels, stride, columns + b * size);
}

// The images are divided among the threads.
void winograd(Shape s, const float *x, const float *w, long m, long out, float *y, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int thread = 0; thread < threads; ++thread) {
        long first = s.images * thread / threads, images = s.images * (thread + 1) / threads - first;
        long pixels = s.height * s.width;
        Tiled of_x(x + first * s.map(), s.height, s.width, s.channels, m);
        Tiled of_y(y + first * pixels * out, s.height, s.width, out, m);
        winograd_forward_of(of_x, w, of_y, images, m);
    }
}

void winograd_gradients(
    Shape s, const float *x, const float *g, const float *w, long m, long out, float *gx, float *gw, int threads
) {
    if (threads > s.images) threads = int(s.images);  // as many parts as `gw` has
#pragma omp parallel for num_threads(threads)
    for (int thread = 0; thread < threads; ++thread) {
        long first = s.images * thread / threads, images = s.images * (thread + 1) / threads - first;
        long pixels = s.height * s.width;
        Tiled of_x(x + first * s.map(), s.height, s.width, s.channels, m);
        Tiled of_g(g + first * pixels * out, s.height, s.width, out, m);
        Tiled of_gx(gx ? gx + first * s.map() : nullptr, s.height, s.width, s.channels, m);
        long weights = (m + 2) * (m + 2) * of_x.groups() * of_g.groups() * LANES * LANES;
        winograd_backward_of(of_x, of_g, w, of_gx, gw ? gw + thread * weights : nullptr, images, m);
    }
}

}  // namespace

// The functions that Python calls; `shape` is {images, H, W, C} of the largest map.
#define LIBRARY(T, NAME)                                                                                               \
    extern "C" void moments_##NAME(const Shape *shape, const T *x, float *mean, float *m2, int threads) {              \
        moments(*shape, x, mean, m2, threads);                                                                         \
    }                                                                                                                  \
    extern "C" void pool_##NAME(                                                                                       \
        const Shape *shape, const T *x, const float *scale, const float *shift, T *y, uint8_t *where, T *largest,      \
        int threads                                                                                                    \
    ) {                                                                                                                \
        pool(*shape, x, scale, shift, y, where, largest, threads);                                                     \
    }                                                                                                                  \
    extern "C" void sums_##NAME(                                                                                       \
        const Shape *shape, const T *g, const uint8_t *where, const T *largest, const float *mean, float *sum,         \
        float *product, int threads                                                                                    \
    ) {                                                                                                                \
        sums(*shape, g, where, largest, mean, sum, product, threads);                                                  \
    }                                                                                                                  \
    extern "C" void gradient_##NAME(                                                                                   \
        const Shape *shape, const T *x, const T *g, const uint8_t *where, const float *scale, const float *constant,   \
        const float *linear, T *gx, int threads                                                                        \
    ) {                                                                                                                \
        gradient(*shape, x, g, where, scale, constant, linear, gx, threads);                                           \
    }                                                                                                                  \
    extern "C" void scale_##NAME(                                                                                      \
        const Shape *shape, const T *x, const T *other, const float *factor, const float *shift, float floor, T *y,    \
        int threads                                                                                                    \
    ) {                                                                                                                \
        scale(*shape, x, other, factor, shift, floor, y, threads);                                                     \
    }                                                                                                                  \
    extern "C" void scale_sums_##NAME(                                                                                 \
        const Shape *shape, const T *x, const T *y, const T *g, const float *mean, float floor, float *sum,            \
        float *product, int threads                                                                                    \
    ) {                                                                                                                \
        scale_sums(*shape, x, y, g, mean, floor, sum, product, threads);                                               \
    }                                                                                                                  \
    extern "C" void scale_gradient_##NAME(                                                                             \
        const Shape *shape, const T *x, const T *y, const T *g, const float *factor, const float *constant,            \
        const float *linear, float floor, T *gx, T *other, int threads                                                 \
    ) {                                                                                                                \
        scale_gradient(*shape, x, y, g, factor, constant, linear, floor, gx, other, threads);                          \
    }                                                                                                                  \
    extern "C" void stem_##NAME(                                                                                       \
        const Shape *shape, const float *x, float minus, const float *weight, const float *shift, long out, T *y,      \
        uint8_t *where, int threads                                                                                    \
    ) {                                                                                                                \
        stem(*shape, x, minus, weight, shift, out, y, where, threads);                                                 \
    }                                                                                                                  \
    extern "C" void stem_sums_##NAME(                                                                                  \
        const Shape *shape, const float *x, float minus, const T *g, const uint8_t *where, long out, float *sum,       \
        float *product, int threads                                                                                    \
    ) {                                                                                                                \
        stem_sums(*shape, x, minus, g, where, out, sum, product, threads);                                             \
    }                                                                                                                  \
    extern "C" void spread_##NAME(const Shape *shape, const T *g, const T *p, long stride, T *out, int threads) {      \
        spread(*shape, g, p, stride, out, threads);                                                                    \
    }                                                                                                                  \
    extern "C" void columns_##NAME(const Shape *shape, const T *x, long stride, T *result, int threads) {              \
        columns(*shape, x, stride, result, threads);                                                                   \
    }

extern "C" void taps_float32(
    const Shape *shape, const float *x, float minus, double *sum, double *product, int threads
) {
    taps(*shape, x, minus, sum, product, threads);
}

extern "C" void winograd_float32(
    const Shape *shape, const float *x, const float *w, long m, long out, float *y, int threads
) {
    winograd(*shape, x, w, m, out, y, threads);
}

extern "C" void winograd_gradients_float32(
    const Shape *shape, const float *x, const float *g, const float *w, long m, long out, float *gx, float *gw,
    int threads
) {
    winograd_gradients(*shape, x, g, w, m, out, gx, gw, threads);
}

LIBRARY(float, float32)
LIBRARY(bf16, bfloat16)
