// Rows of a cloud, and the sums of rows that are every gather's backward.
#include "common.cuh"

// values (B, points, channels), index (B, queries) -> out (B, queries, channels). A thread per value of out.
template <typename T>
__global__ void gather(const T* values, const i64* index, T* out, i64 total, i64 queries, i64 points, i64 channels) {
    i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= total) return;
    i64 row = i / channels, c = i - row * channels;
    i64 source = row / queries * points + checked(index[row], points);
    out[i] = values[source * channels + c];
}

// out[r] = sum of the edges e = order[starts[r]] .. order[starts[r + 1] - 1], in that order: no atomics, so two runs
// agree bit for bit. Edge e stands for row e / share of edges, columns first .. first + channels of width, times
// factors[e] where there are factors. A thread per value of out.
template <typename T>
__global__ void sum_edges(const T* edges, const T* factors, const i64* order, const i64* starts, T* out, i64 total,
                          i64 channels, i64 width, i64 first, i64 share) {
    i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= total) return;
    i64 row = i / channels, c = i - row * channels;
    Wide<T> sum = 0;
    for (i64 at = starts[row], stop = starts[row + 1]; at < stop; at++) {
        i64 edge = order[at];
        Wide<T> value = wide(edges[(share == 1 ? edge : edge / share) * width + first + c]);
        sum += factors ? wide(factors[edge]) * value : value;
    }
    narrow(sum, out[i]);
}
