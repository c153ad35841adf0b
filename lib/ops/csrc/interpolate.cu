// Inverse-distance interpolation. The sums over edges of the backward are gather.cu's sum_edges.
#include "common.cuh"

// values (B, points, channels), index and weights (B, queries, neighbours) -> out (B, queries, channels).
// A thread per value of out.
template <typename T>
__global__ void weighted_sum(const T* values, const i64* index, const T* weights, T* out, i64 total, i64 queries,
                             i64 points, i64 neighbours, i64 channels) {
    i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= total) return;
    i64 row = i / channels, c = i - row * channels;
    i64 cloud = row / queries * points;
    Wide<T> sum = 0;
    for (i64 edge = row * neighbours; edge < (row + 1) * neighbours; edge++) {
        i64 source = cloud + checked(index[edge], points);
        sum = fused(wide(weights[edge]), wide(values[source * channels + c]), sum);
    }
    narrow(sum, out[i]);
}

// grad_weights of an edge = grad_out of its query . values of its neighbour. A warp per edge.
template <typename T>
__global__ void weighted_sum_backward(const T* values, const i64* index, const T* grad_out, T* grad_weights, i64 edges,
                                      i64 queries, i64 points, i64 neighbours, i64 channels) {
    i64 edge = (i64(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
    if (edge >= edges) return;
    i64 row = edge / neighbours, source = row / queries * points + checked(index[edge], points);
    Wide<T> sum = 0;
    for (i64 c = threadIdx.x % 32; c < channels; c += 32)
        sum = fused(wide(grad_out[row * channels + c]), wide(values[source * channels + c]), sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) narrow(sum, grad_weights[edge]);
}

constexpr double MIN_SQUARE = 1e-10 * 1e-10;  // reference.MIN_DISTANCE, squared

template <typename T>
__device__ inline T squared_offset(const T* query, const T* support, i64 row, i64 source, T (&offset)[3]) {
    for (int c = 0; c < 3; c++) offset[c] = support[source * 3 + c] - query[row * 3 + c];
    return offset[0] * offset[0] + offset[1] * offset[1] + offset[2] * offset[2];
}

template <typename T> __device__ inline T inverse_root(T square) {
    return T(1) / sqrt(square < T(MIN_SQUARE) ? T(MIN_SQUARE) : square);
}

// query (B, queries, 3), support (B, points, 3), index (B, queries, neighbours) -> weights of the same shape as index.
// A thread per query.
template <typename T>
__global__ void inverse_distance_weights(const T* query, const T* support, const i64* index, T* weights, i64 rows,
                                         i64 queries, i64 points, i64 neighbours) {
    i64 row = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    i64 cloud = row / queries * points, begin = row * neighbours;
    T offset[3], sum = 0;
    for (i64 k = 0; k < neighbours; k++) {
        i64 source = cloud + checked(index[begin + k], points);
        T inverse = inverse_root(squared_offset(query, support, row, source, offset));
        weights[begin + k] = inverse;
        sum += inverse;
    }
    for (i64 k = 0; k < neighbours; k++) weights[begin + k] /= sum;
}

// grad_edges (B, queries, neighbours, 3): the gradient of each neighbour's place; their sum, negated, is the query's.
// With v = 1/d, S = sum v, w = v/S: dL/dv_k = (g_k - sum_j g_j w_j) / S and dv/d(d^2) = -v^3/2. A thread per query.
template <typename T>
__global__ void inverse_distance_backward(const T* query, const T* support, const i64* index, const T* grad_weights,
                                          T* grad_edges, T* grad_query, i64 rows, i64 queries, i64 points,
                                          i64 neighbours) {
    i64 row = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    i64 cloud = row / queries * points, begin = row * neighbours;
    T offset[3], sum = 0, dot = 0, total[3] = {0, 0, 0};
    for (i64 k = 0; k < neighbours; k++) {
        i64 source = cloud + checked(index[begin + k], points);
        T inverse = inverse_root(squared_offset(query, support, row, source, offset));
        sum += inverse;
        dot += grad_weights[begin + k] * inverse;
    }
    dot /= sum;
    for (i64 k = 0; k < neighbours; k++) {
        T square = squared_offset(query, support, row, cloud + index[begin + k], offset);
        T inverse = inverse_root(square);
        T slope = square < T(MIN_SQUARE) ? T(0) : -(grad_weights[begin + k] - dot) / sum * inverse * inverse * inverse;
        for (int c = 0; c < 3; c++) {
            T grad = slope * offset[c];
            grad_edges[(begin + k) * 3 + c] = grad;
            total[c] -= grad;
        }
    }
    for (int c = 0; c < 3; c++) grad_query[row * 3 + c] = total[c];
}
