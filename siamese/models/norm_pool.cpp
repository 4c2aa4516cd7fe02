// Batch statistics; scaling, 2x2 max-pooling and ReLU as one operation; and scaling, addition and ReLU as another; with
// their gradients.
//
// Feature maps are channels-last, [images][H][W][C], float32 or bf16; arithmetic is float32. Each function reads the
// maps once, with one thread per image. Results do not depend on the number of threads.

#include <cstdint>
#include <cstring>

// Functions are compiled for several processors; the loader selects the fastest version for the current one.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
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
        float z0 = a * v0 + b, z1 = a * v1 + b, z2 = a * v2 + b, z3 = a * v3 + b;
        float best = z0, raw = v0;
        uint32_t place = 0;
        // Like PyTorch, choose the first of several equal maxima, and NaN over any number.
        bool larger = (z1 > best) | (z1 != z1);
        best = larger ? z1 : best, raw = larger ? v1 : raw, place = larger ? 1 : place;
        larger = (z2 > best) | (z2 != z2);
        best = larger ? z2 : best, raw = larger ? v2 : raw, place = larger ? 2 : place;
        larger = (z3 > best) | (z3 != z3);
        best = larger ? z3 : best, raw = larger ? v3 : raw, place = larger ? 3 : place;
        store(y + c, best < 0 ? 0 : best);
        if (KEEP) {
            where[c] = uint8_t(best <= 0 ? 4 : place);
            store(largest + c, raw);
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
    }

OF_IMAGE(float)
OF_IMAGE(bf16)

struct Shape {
    long images, height, width, channels;

    long map() const { return height * width * channels; }
    long pooled() const { return (height / 2) * (width / 2) * channels; }
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
        long at = b * s.pooled(), pixels = (s.height / 2) * (s.width / 2);
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

}  // namespace

// The functions that Python calls; `shape` is {images, H, W, C} of the map to pool.
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
    }

LIBRARY(float, float32)
LIBRARY(bf16, bfloat16)
