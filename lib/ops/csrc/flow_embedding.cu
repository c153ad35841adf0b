// The flow embedding: max over neighbours of LeakyReLU(matrix LeakyReLU(query + support[neighbour]) + bias).
//
// Forward: one kernel gathers, adds, multiplies and takes the maximum; nothing of size (B, N, K, .) reaches memory, and
// only the neighbour that won is kept for the backward. It is a tiled matrix product whose 128 rows are 32 neighbours of
// 4 queries: a warp holds all 32 of one query, so the maximum is two shuffles.
#include "common.cuh"

constexpr int QUERIES = 4, SLOTS = 32, ROWS = QUERIES * SLOTS;  // neighbours beyond 32 come in further rounds
constexpr int DEPTH = 16, THREADS = 256, TILE_ROWS = 8;         // a thread sums 8 neighbours x COLUMNS / 16 outputs

template <typename T>
__device__ inline Wide<T> hidden_sum(const T* query, const T* support, i64 row, i64 source, i64 channels, i64 c) {
    return wide(query[row * channels + c]) + wide(support[source * channels + c]);
}

// query (rows = B queries, channels), support (B, points, channels), index (rows, neighbours), matrix (outputs,
// channels), bias (outputs) -> out and winner (rows, outputs). grid: (rows / 4, outputs / COLUMNS), rounded up.
template <typename T, int COLUMNS>
__global__ void __launch_bounds__(THREADS)
flow_embedding(const T* query, const T* support, const i64* index, const T* matrix, const T* bias, T* out, int* winner,
               i64 rows, i64 queries, i64 points, i64 neighbours, i64 channels, i64 outputs) {
    using A = Wide<T>;
    constexpr int WIDTH = COLUMNS / 16;
    SHARED(Four<A>, hidden, [DEPTH][ROWS / 4 + 1]);
    SHARED(A, columns, [DEPTH][COLUMNS + 4]);
    SHARED(i64, origin, [ROWS]);  // the neighbour's row of support, -1 where there is none
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row0 = warp % QUERIES * SLOTS + lane / 8 * TILE_ROWS;          // this thread's rows of the tile
    const int column0 = warp / QUERIES * (COLUMNS / 2) + lane % 8 * WIDTH;  // and columns
    const i64 first = i64(blockIdx.x) * QUERIES, d0 = i64(blockIdx.y) * COLUMNS;

    A best[WIDTH];
    int who[WIDTH];
    for (i64 k0 = 0; k0 < neighbours; k0 += SLOTS) {
        __syncthreads();
        if (threadIdx.x < ROWS) {
            i64 row = first + threadIdx.x / SLOTS, k = k0 + threadIdx.x % SLOTS;
            bool inside = row < rows && k < neighbours;
            origin[threadIdx.x] = inside ? row / queries * points + checked(index[row * neighbours + k], points) : -1;
        }
        A sum[TILE_ROWS][WIDTH] = {};
        for (i64 c0 = 0; c0 < channels; c0 += DEPTH) {
            __syncthreads();
#pragma unroll
            for (int i = threadIdx.x; i < ROWS * DEPTH; i += THREADS) {
                int r = i / DEPTH, c = i % DEPTH;
                A value = 0;
                if (origin[r] >= 0 && c0 + c < channels)
                    value = leaky_relu(hidden_sum(query, support, first + r / SLOTS, origin[r], channels, c0 + c));
                hidden[c][r / 4].at[r % 4] = value;
            }
#pragma unroll
            for (int i = threadIdx.x; i < COLUMNS * DEPTH; i += THREADS) {
                int d = i / DEPTH, c = i % DEPTH;
                bool inside = d0 + d < outputs && c0 + c < channels;
                columns[c][d] = inside ? wide(matrix[(d0 + d) * channels + c0 + c]) : A(0);
            }
            __syncthreads();
#pragma unroll
            for (int c = 0; c < DEPTH; c++) {
                const Four<A> low = hidden[c][row0 / 4], high = hidden[c][row0 / 4 + 1];
#pragma unroll
                for (int j = 0; j < WIDTH; j++) {
                    A factor = columns[c][column0 + j];
#pragma unroll
                    for (int i = 0; i < TILE_ROWS; i++)
                        sum[i][j] = fused(i < 4 ? low.at[i % 4] : high.at[i % 4], factor, sum[i][j]);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {  // the largest, the first of equals; NaN wins, so that it is seen
            int k = int(k0) + lane / 8 * TILE_ROWS;
            A most = -infinity<A>();
            int at = k;
#pragma unroll
            for (int i = 0; i < TILE_ROWS; i++) {
                if (k + i < neighbours && (sum[i][j] > most || sum[i][j] != sum[i][j])) {
                    most = sum[i][j];
                    at = k + i;
                }
            }
#pragma unroll
            for (int step = 8; step < 32; step *= 2) {
                A other = __shfl_xor_sync(ALL_LANES, most, step);
                int there = __shfl_xor_sync(ALL_LANES, at, step);
                if (other > most || (other == most && there < at) || other != other) {
                    most = other;
                    at = there;
                }
            }
            if (k0 == 0 || most > best[j] || most != most) {
                best[j] = most;
                who[j] = at;
            }
        }
    }
    const i64 row = first + warp % QUERIES;
    if (lane >= 8 || row >= rows) return;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
        i64 d = d0 + column0 + j;
        if (d >= outputs) break;
        narrow(leaky_relu(best[j] + wide(bias[d])), out[row * outputs + d]);
        winner[row * outputs + d] = who[j];
    }
}

// grad (rows, outputs): the gradient before the outer LeakyReLU.
// -> grad_edges (rows, neighbours, channels), the gradient of each sum query + support, and its sum grad_query.
// A thread per channel of a query: grid (rows, channels / CHANNELS). Each thread has a column of shared memory to itself.
constexpr int CHANNELS = 64;

template <typename T>
__global__ void __launch_bounds__(CHANNELS)
flow_embedding_edges(const T* query, const T* support, const i64* index, const T* matrix, const int* winner,
                     const T* grad, T* grad_edges, T* grad_query, i64 queries, i64 points, i64 neighbours, i64 channels,
                     i64 outputs) {
    using A = Wide<T>;
    SHARED(A, sums, [SLOTS][CHANNELS]);
    const int own = threadIdx.x;
    const i64 row = blockIdx.x, c = i64(blockIdx.y) * CHANNELS + own;
    if (c >= channels) return;
    A total = 0;
    for (i64 k0 = 0; k0 < neighbours; k0 += SLOTS) {
        for (int k = 0; k < SLOTS; k++) sums[k][own] = 0;
        for (i64 d = 0; d < outputs; d++) {
            i64 k = winner[row * outputs + d] - k0;
            if (k >= 0 && k < SLOTS)
                sums[k][own] = fused(wide(grad[row * outputs + d]), wide(matrix[d * channels + c]), sums[k][own]);
        }
        for (int k = 0; k < SLOTS && k0 + k < neighbours; k++) {
            i64 edge = row * neighbours + k0 + k, source = row / queries * points + checked(index[edge], points);
            A value = sums[k][own];
            if (!(hidden_sum(query, support, row, source, channels, c) > 0)) value *= A(0.1);
            narrow(value, grad_edges[edge * channels + c]);
            total += value;
        }
    }
    narrow(total, grad_query[row * channels + c]);
}

// parts (slices, outputs, channels): sums over a slice of the rows of grad x hidden; their sum is the matrix's gradient.
// A thread per channel: grid (outputs, slices).
template <typename T>
__global__ void flow_embedding_matrix(const T* query, const T* support, const i64* index, const int* winner,
                                      const T* grad, Wide<T>* parts, i64 rows, i64 queries, i64 points, i64 neighbours,
                                      i64 channels, i64 outputs) {
    const i64 d = blockIdx.x, slice = (rows + gridDim.y - 1) / gridDim.y;
    const i64 start = blockIdx.y * slice, stop = start + slice < rows ? start + slice : rows;
    for (i64 c = threadIdx.x; c < channels; c += blockDim.x) {
        Wide<T> sum = 0;
        for (i64 row = start; row < stop; row++) {
            i64 edge = row * neighbours + winner[row * outputs + d];
            i64 source = row / queries * points + checked(index[edge], points);
            Wide<T> hidden = leaky_relu(hidden_sum(query, support, row, source, channels, c));
            sum = fused(wide(grad[row * outputs + d]), hidden, sum);
        }
        parts[(blockIdx.y * outputs + d) * channels + c] = sum;
    }
}
