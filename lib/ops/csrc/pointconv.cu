// PointConv's aggregation: sum over neighbours of [offset, features[neighbour]] (outer) weights.
// An edge has 3 + C inputs, offset first, and WEIGHTS weights.
#include "common.cuh"

constexpr int WEIGHTS = 16;

template <typename T>
__device__ inline Wide<T> input_of(const T* offset, const T* features, i64 edge, i64 source, i64 inputs, i64 c) {
    if (c >= inputs) return 0;
    return wide(c < 3 ? offset[edge * 3 + c] : features[source * (inputs - 3) + c - 3]);
}

// offset (rows = B queries, neighbours, 3), features (B, points, inputs - 3), index (rows, neighbours), weights (rows,
// neighbours, 16) -> out (rows, inputs, 16). grid: (rows, inputs / TILE); a thread sums 2 inputs x 4 weights.
constexpr int TILE = 64, THREADS = 128, ROUND = 32;

template <typename T>
__global__ void __launch_bounds__(THREADS, 4)
pointconv(const T* offset, const T* features, const i64* index, const T* weights, T* out, i64 queries, i64 points,
          i64 neighbours, i64 inputs) {
    using A = Wide<T>;
    SHARED(A, input, [ROUND][TILE]);
    SHARED(Four<A>, weight, [ROUND][WEIGHTS / 4]);
    SHARED(i64, origin, [ROUND]);
    const i64 row = blockIdx.x, c0 = i64(blockIdx.y) * TILE;
    const int quad = threadIdx.x % 4, mine = threadIdx.x / 4;  // weights 4 quad .., inputs c0 + mine and 32 further
    A low[4] = {}, high[4] = {};
    for (i64 k0 = 0; k0 < neighbours; k0 += ROUND) {
        const int count = neighbours - k0 < ROUND ? int(neighbours - k0) : ROUND;
        const i64 edge0 = row * neighbours + k0;
        __syncthreads();
        if (threadIdx.x < count)
            origin[threadIdx.x] = row / queries * points + checked(index[edge0 + threadIdx.x], points);
        for (int i = threadIdx.x; i < count * WEIGHTS; i += THREADS)
            weight[i / WEIGHTS][i % WEIGHTS / 4].at[i % 4] = wide(weights[edge0 * WEIGHTS + i]);
        __syncthreads();
        for (int i = threadIdx.x; i < count * TILE; i += THREADS) {
            int k = i / TILE, c = i % TILE;
            input[k][c] = input_of(offset, features, edge0 + k, origin[k], inputs, c0 + c);
        }
        __syncthreads();
        for (int k = 0; k < count; k++) {
            const Four<A> factor = weight[k][quad];
            const A a = input[k][mine], b = input[k][mine + TILE / 2];
#pragma unroll
            for (int w = 0; w < 4; w++) {
                low[w] = fused(a, factor.at[w], low[w]);
                high[w] = fused(b, factor.at[w], high[w]);
            }
        }
    }
    for (int half = 0; half < 2; half++) {
        i64 c = c0 + mine + half * (TILE / 2);
        if (c >= inputs) break;
        Four<T> result;
#pragma unroll
        for (int w = 0; w < 4; w++) narrow(half ? high[w] : low[w], result.at[w]);
        reinterpret_cast<Four<T>*>(out)[(row * inputs + c) * (WEIGHTS / 4) + quad] = result;
    }
}

// grad_out (rows, inputs, 16) -> grad_edges (rows, neighbours, inputs), the gradient of offset and gathered features,
// and grad_weights (rows, neighbours, 16). grid: (rows, neighbours / PART); a thread per (neighbour, weight).
constexpr int PART = 16, STRIP = 32;

template <typename T>
__global__ void __launch_bounds__(PART * WEIGHTS, 4)
pointconv_backward(const T* offset, const T* features, const i64* index, const T* weights, const T* grad_out,
                   T* grad_edges, T* grad_weights, i64 queries, i64 points, i64 neighbours, i64 inputs) {
    using A = Wide<T>;
    SHARED(A, grad, [STRIP][WEIGHTS + 1]);
    SHARED(A, input, [PART][STRIP + 1]);
    SHARED(A, weight, [PART][WEIGHTS + 1]);
    const i64 row = blockIdx.x, k0 = i64(blockIdx.y) * PART, edge0 = row * neighbours + k0;
    const int count = neighbours - k0 < PART ? int(neighbours - k0) : PART;
    const int mine = threadIdx.x / WEIGHTS, w = threadIdx.x % WEIGHTS;
    weight[mine][w] = mine < count ? wide(weights[(edge0 + mine) * WEIGHTS + w]) : A(0);
    A sum = 0;
    for (i64 c0 = 0; c0 < inputs; c0 += STRIP) {
        __syncthreads();
        for (int i = threadIdx.x; i < STRIP * WEIGHTS; i += PART * WEIGHTS) {
            bool inside = c0 + i / WEIGHTS < inputs;
            grad[i / WEIGHTS][i % WEIGHTS] = inside ? wide(grad_out[(row * inputs + c0) * WEIGHTS + i]) : A(0);
        }
        for (int i = threadIdx.x; i < PART * STRIP; i += PART * WEIGHTS) {
            int k = i / STRIP, c = i % STRIP;
            A value = 0;
            if (k < count) {
                i64 source = row / queries * points + checked(index[edge0 + k], points);
                value = input_of(offset, features, edge0 + k, source, inputs, c0 + c);
            }
            input[k][c] = value;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < PART * STRIP; i += PART * WEIGHTS) {
            int k = i / STRIP, c = i % STRIP;
            if (k < count && c0 + c < inputs) {
                A edge = 0;
#pragma unroll
                for (int v = 0; v < WEIGHTS; v++) edge = fused(weight[k][v], grad[c][v], edge);
                narrow(edge, grad_edges[(edge0 + k) * inputs + c0 + c]);
            }
        }
#pragma unroll 8
        for (int c = 0; c < STRIP; c++) sum = fused(input[mine][c], grad[c][w], sum);
    }
    if (mine < count) narrow(sum, grad_weights[(edge0 + mine) * WEIGHTS + w]);
}
