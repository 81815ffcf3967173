/* The linear maps of Winograd's F(4x4, 3x3) for feature maps in float32: maps to 36 planes, and planes to maps.

   Built with the package where there is a C compiler, and called by winograd.py, which says what they are for. Every
   function takes a Job, as one thread of several: whoever is free takes the next row of tiles. */
#include <stdint.h>

enum { OUTER = 6, PLANES = OUTER * OUTER, INNER = 4, OVERLAP = OUTER - INNER, KERNEL = 3 };

typedef struct {
    float *map;     /* [images, height, width, channels] */
    float *planes;  /* [36, images x tiles, channels]; from a plane to the next there are `plane` floats */
    int64_t images, height, width, channels, plane;
    int64_t next;   /* the first piece of work that no thread has taken; 0 at the start */
} Job;

/* Channels that are computed together; the number of channels must be a multiple of it. */
enum { LANES = 8 };
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef void Transform(const Lanes *in, Lanes *out, int step);

#define INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__linux__)
#define FOR_EVERY_CPU __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FOR_EVERY_CPU
#endif

/* One-dimensional transforms between columns whose elements are `step` apart, in the notation of arXiv 1509.09308. */

INLINE void input(const Lanes *d, Lanes *out, int s) { /* B^T: 6 to 6 */
    Lanes even = d[4 * s] - 4 * d[2 * s], odd = d[3 * s] - 4 * d[s];
    Lanes even2 = d[4 * s] - d[2 * s], odd2 = 2 * (d[3 * s] - d[s]);
    out[0] = 4 * d[0] - 5 * d[2 * s] + d[4 * s];
    out[s] = even + odd;
    out[2 * s] = even - odd;
    out[3 * s] = even2 + odd2;
    out[4 * s] = even2 - odd2;
    out[5 * s] = 4 * d[s] - 5 * d[3 * s] + d[5 * s];
}

INLINE void input_back(const Lanes *v, Lanes *out, int s) { /* B: 6 to 6 */
    Lanes sum = v[s] + v[2 * s], difference = v[s] - v[2 * s];
    Lanes sum2 = v[3 * s] + v[4 * s], difference2 = v[3 * s] - v[4 * s];
    out[0] = 4 * v[0];
    out[s] = 4 * v[5 * s] - 4 * difference - 2 * difference2;
    out[2 * s] = -5 * v[0] - 4 * sum - sum2;
    out[3 * s] = difference + 2 * difference2 - 5 * v[5 * s];
    out[4 * s] = v[0] + sum + sum2;
    out[5 * s] = v[5 * s];
}

INLINE void output(const Lanes *m, Lanes *out, int s) { /* A^T: 6 to 4 */
    Lanes sum = m[s] + m[2 * s], difference = m[s] - m[2 * s];
    Lanes sum2 = m[3 * s] + m[4 * s], difference2 = m[3 * s] - m[4 * s];
    out[0] = m[0] + sum + sum2;
    out[s] = difference + 2 * difference2;
    out[2 * s] = sum + 4 * sum2;
    out[3 * s] = difference + 8 * difference2 + m[5 * s];
}

INLINE void output_back(const Lanes *g, Lanes *out, int s) { /* A: 4 to 6 */
    Lanes even = g[0] + g[2 * s], odd = g[s] + g[3 * s];
    Lanes even2 = g[0] + 4 * g[2 * s], odd2 = 2 * g[s] + 8 * g[3 * s];
    out[0] = g[0];
    out[s] = even + odd;
    out[2 * s] = even - odd;
    out[3 * s] = even2 + odd2;
    out[4 * s] = even2 - odd2;
    out[5 * s] = g[3 * s];
}

INLINE void weights(const Lanes *g, Lanes *out, int s) { /* G: 3 to 6 */
    Lanes even = (g[0] + g[2 * s]) * (-1.0f / 6), odd = g[s] * (-1.0f / 6);
    Lanes even2 = g[0] * (1.0f / 24) + g[2 * s] * (1.0f / 6), odd2 = g[s] * (1.0f / 12);
    out[0] = g[0] * 0.25f;
    out[s] = even + odd;
    out[2 * s] = even - odd;
    out[3 * s] = even2 + odd2;
    out[4 * s] = even2 - odd2;
    out[5 * s] = g[2 * s];
}

INLINE void weights_back(const Lanes *u, Lanes *out, int s) { /* G^T: 6 to 3 */
    Lanes sum = (u[s] + u[2 * s]) * (-1.0f / 6), difference = (u[s] - u[2 * s]) * (-1.0f / 6);
    Lanes sum2 = u[3 * s] + u[4 * s], difference2 = u[3 * s] - u[4 * s];
    out[0] = u[0] * 0.25f + sum + sum2 * (1.0f / 24);
    out[s] = difference + difference2 * (1.0f / 12);
    out[2 * s] = sum + sum2 * (1.0f / 6) + u[5 * s];
}

INLINE int64_t taken(Job *job) { return __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED); }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Squares of `size` pixels, a step apart, the first of them `before` pixels outside, to planes; outside is zero. */
INLINE void spread(Job *job, int size, int step, int before, Transform transform) {
    const int64_t height = job->height, width = job->width, channels = job->channels;
    const int64_t down = (height + step - 1) / step, across = (width + step - 1) / step;
    for (int64_t row; (row = taken(job)) < job->images * down;)
        for (int64_t tile = 0; tile < across; tile++) {
            const int64_t top = row % down * step - before, left = tile * step - before;
            const int64_t y0 = top < 0 ? -top : 0, y1 = smaller(size, height - top);
            const int64_t x0 = left < 0 ? -left : 0, x1 = smaller(size, width - left);
            const float *corner = job->map + ((row / down * height + top) * width + left) * channels;
            float *planes = job->planes + (row * across + tile) * channels;
            for (int64_t c = 0; c < channels; c += LANES) {
                Lanes square[OUTER * OUTER], half[OUTER * OUTER], whole[OUTER * OUTER];
                if (y0 || x0 || y1 < size || x1 < size)
                    for (int i = 0; i < size * size; i++) square[i] = (Lanes){0};
                for (int64_t y = y0; y < y1; y++)
                    for (int64_t x = x0; x < x1; x++)
                        square[y * size + x] = *(const Lanes *)(corner + (y * width + x) * channels + c);
                for (int x = 0; x < size; x++) transform(square + x, half + x, size);
                for (int y = 0; y < OUTER; y++) transform(half + y * size, whole + y * OUTER, 1);
                for (int i = 0; i < PLANES; i++) *(Lanes *)(planes + i * job->plane + c) = whole[i];
            }
        }
}

/* Planes to squares of `size` pixels side by side, without what would lie outside. */
INLINE void gather(Job *job, int size, Transform transform) {
    const int64_t height = job->height, width = job->width, channels = job->channels;
    const int64_t down = (height + size - 1) / size, across = (width + size - 1) / size;
    for (int64_t row; (row = taken(job)) < job->images * down;)
        for (int64_t tile = 0; tile < across; tile++) {
            const int64_t top = row % down * size, left = tile * size;
            const int64_t y1 = smaller(size, height - top), x1 = smaller(size, width - left);
            float *corner = job->map + ((row / down * height + top) * width + left) * channels;
            const float *planes = job->planes + (row * across + tile) * channels;
            for (int64_t c = 0; c < channels; c += LANES) {
                Lanes whole[OUTER * OUTER], half[OUTER * OUTER], square[OUTER * OUTER];
                for (int i = 0; i < PLANES; i++) whole[i] = *(const Lanes *)(planes + i * job->plane + c);
                for (int x = 0; x < OUTER; x++) transform(whole + x, half + x, OUTER);
                for (int y = 0; y < size; y++) transform(half + y * OUTER, square + y * size, 1);
                for (int64_t y = 0; y < y1; y++)
                    for (int64_t x = 0; x < x1; x++)
                        *(Lanes *)(corner + (y * width + x) * channels + c) = square[y * size + x];
            }
        }
}

FOR_EVERY_CPU void spread_input(Job *job) { spread(job, OUTER, INNER, 1, input); }
FOR_EVERY_CPU void spread_gradient(Job *job) { spread(job, INNER, INNER, 0, output_back); }
FOR_EVERY_CPU void spread_weights(Job *job) { spread(job, KERNEL, KERNEL, 0, weights); }
FOR_EVERY_CPU void gather_output(Job *job) { gather(job, INNER, output); }
FOR_EVERY_CPU void gather_weights(Job *job) { gather(job, KERNEL, weights_back); }

/* The way back of spread_input: the squares overlap, so that a thread adds up those of a whole image. */
FOR_EVERY_CPU void gather_gradient(Job *job) {
    const int64_t height = job->height, width = job->width, channels = job->channels;
    const int64_t down = (height + INNER - 1) / INNER, across = (width + INNER - 1) / INNER;
    const int64_t wide = across * INNER + OVERLAP, all = (down * INNER + OVERLAP) * wide;
    Lanes sums[all];
    for (int64_t image; (image = taken(job)) < job->images;)
        for (int64_t c = 0; c < channels; c += LANES) {
            for (int64_t i = 0; i < all; i++) sums[i] = (Lanes){0};
            for (int64_t tile = 0; tile < down * across; tile++) {
                const float *planes = job->planes + (image * down * across + tile) * channels + c;
                Lanes *corner = sums + (tile / across * wide + tile % across) * INNER;
                Lanes whole[PLANES], half[PLANES], square[PLANES];
                for (int i = 0; i < PLANES; i++) whole[i] = *(const Lanes *)(planes + i * job->plane);
                for (int x = 0; x < OUTER; x++) input_back(whole + x, half + x, OUTER);
                for (int y = 0; y < OUTER; y++) input_back(half + y * OUTER, square + y * OUTER, 1);
                for (int y = 0; y < OUTER; y++)
                    for (int x = 0; x < OUTER; x++) corner[y * wide + x] += square[y * OUTER + x];
            }
            for (int64_t y = 0; y < height; y++)
                for (int64_t x = 0; x < width; x++)
                    *(Lanes *)(job->map + ((image * height + y) * width + x) * channels + c) =
                        sums[(y + 1) * wide + x + 1];
        }
}
