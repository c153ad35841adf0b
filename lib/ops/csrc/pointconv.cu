// PointConv's aggregation: sum over neighbours of [offset, features[neighbour]] (outer) WeightNet(offset).
// An edge has 3 + C inputs, offset first, and WEIGHTS weights. The weights are made where they are used, from the offset,
// and again in the backward: memory holds none of them. Coordinates and the WeightNet are Wide<T>, features T.
#include "common.cuh"

constexpr int WEIGHTS = 16, HIDDEN = 8;
constexpr int PARAMETERS = 3 * HIDDEN + HIDDEN + HIDDEN * HIDDEN + HIDDEN + WEIGHTS * HIDDEN + WEIGHTS;  // 248

// ---- WeightNet: three linear layers, each followed by ReLU: 3 -> HIDDEN -> HIDDEN -> WEIGHTS.

// The parameters in memory.
template <typename A> struct Net {
    const A *weight1, *bias1, *weight2, *bias2, *weight3, *bias3;
};

// The same in a block's shared memory. Odd rows: a column, too, lies in as many banks as it has values.
template <typename A> struct Layers {
    A weight1[HIDDEN][3], bias1[HIDDEN], weight2[HIDDEN][HIDDEN + 1], bias2[HIDDEN], weight3[WEIGHTS][HIDDEN + 1],
        bias3[WEIGHTS];
};

template <typename A> __device__ inline void load_layers(const Net<A>& net, Layers<A>& layers) {
    for (int i = threadIdx.x; i < WEIGHTS * HIDDEN; i += blockDim.x) {
        layers.weight3[i / HIDDEN][i % HIDDEN] = net.weight3[i];
        if (i < HIDDEN * HIDDEN) layers.weight2[i / HIDDEN][i % HIDDEN] = net.weight2[i];
        if (i < HIDDEN * 3) layers.weight1[i / 3][i % 3] = net.weight1[i];
        if (i < HIDDEN) layers.bias1[i] = net.bias1[i], layers.bias2[i] = net.bias2[i];
        if (i < WEIGHTS) layers.bias3[i] = net.bias3[i];
    }
}

// One output of a layer. NaN stays NaN.
template <int INPUTS, typename A> __device__ inline A neuron(const A* weight, A bias, const A* values) {
    A sum = bias;
#pragma unroll
    for (int i = 0; i < INPUTS; i++) sum = fused(weight[i], values[i], sum);
    return sum < A(0) ? A(0) : sum;
}

// offset (rows = B queries, neighbours, 3), features (B, points, C), index (rows, neighbours) -> out (rows, 3 + C, 16).
// grid: (rows, C / TILE, at least 1). A thread sums 4 weights x 2 features; a few also 4 weights x 1 coordinate.
constexpr int TILE = 64, THREADS = 128, ROUND = 32, SLOTS = 3;

template <typename T>
__global__ void __launch_bounds__(THREADS, 4)
pointconv(const Wide<T>* offset, const T* features, const i64* index, const Wide<T>* weight1, const Wide<T>* bias1,
          const Wide<T>* weight2, const Wide<T>* bias2, const Wide<T>* weight3, const Wide<T>* bias3, T* out,
          i64 queries, i64 points, i64 neighbours, i64 channels) {
    using A = Wide<T>;
    SHARED(Layers<A>, layers, [1]);
    SHARED(A, input, [ROUND][TILE]);
    SHARED(A, place, [ROUND][3]);
    SHARED(A, first, [ROUND][HIDDEN]);
    SHARED(A, second, [ROUND][HIDDEN]);
    SHARED(Four<A>, weight, [ROUND][WEIGHTS / 4]);
    SHARED(i64, origin, [ROUND]);
    const i64 row = blockIdx.x, c0 = i64(blockIdx.y) * TILE;
    const int quad = threadIdx.x % 4, mine = threadIdx.x / 4;  // weights 4 quad .., features c0 + mine and 32 further
    const bool coordinate = c0 == 0 && mine < 3;
    load_layers<A>({weight1, bias1, weight2, bias2, weight3, bias3}, layers[0]);
    A sum[SLOTS][4] = {};
    for (i64 k0 = 0; k0 < neighbours; k0 += ROUND) {
        const int count = neighbours - k0 < ROUND ? int(neighbours - k0) : ROUND;
        const i64 edge0 = row * neighbours + k0;
        __syncthreads();
        if (threadIdx.x < count)
            origin[threadIdx.x] = row / queries * points + checked(index[edge0 + threadIdx.x], points);
        for (int i = threadIdx.x; i < count * 3; i += THREADS) place[i / 3][i % 3] = offset[edge0 * 3 + i];
        __syncthreads();
        for (int i = threadIdx.x; i < count * TILE; i += THREADS) {
            int k = i / TILE, c = i % TILE;
            input[k][c] = c0 + c < channels ? wide(features[origin[k] * channels + c0 + c]) : A(0);
        }
        for (int i = threadIdx.x; i / 32 * 32 < count * HIDDEN; i += THREADS) {  // 8 lanes a neighbour, whole warps
            const int k = i / HIDDEN, o = i % HIDDEN;
            first[k][o] = neuron<3>(layers[0].weight1[o], layers[0].bias1[o], place[k]);
            __syncwarp();
            second[k][o] = neuron<HIDDEN>(layers[0].weight2[o], layers[0].bias2[o], first[k]);
            __syncwarp();
            for (int w = o; w < WEIGHTS; w += HIDDEN)
                weight[k][w / 4].at[w % 4] = neuron<HIDDEN>(layers[0].weight3[w], layers[0].bias3[w], second[k]);
        }
        __syncthreads();
        for (int k = 0; k < count; k++) {
            const Four<A> factor = weight[k][quad];
            const A a = input[k][mine], b = input[k][mine + TILE / 2];
#pragma unroll
            for (int w = 0; w < 4; w++) {
                sum[0][w] = fused(a, factor.at[w], sum[0][w]);
                sum[1][w] = fused(b, factor.at[w], sum[1][w]);
            }
            if (coordinate) {
                const A x = place[k][mine];
#pragma unroll
                for (int w = 0; w < 4; w++) sum[2][w] = fused(x, factor.at[w], sum[2][w]);
            }
        }
    }
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) {
        i64 c = slot < 2 ? c0 + mine + slot * (TILE / 2) : mine;
        if (slot < 2 ? c >= channels : !coordinate) continue;
        Four<T> result;
#pragma unroll
        for (int w = 0; w < 4; w++) narrow(sum[slot][w], result.at[w]);
        i64 to = row * (3 + channels) + (slot < 2 ? 3 + c : c);
        reinterpret_cast<Four<T>*>(out)[to * (WEIGHTS / 4) + quad] = result;
    }
}

// grad_out (rows, 3 + C, 16) -> grad_edges (edges = rows neighbours, C), the gradient of the gathered features,
// grad_offset (edges, 3), and parts (blocks, 248): each block's sums for the parameters, in the order of Net.
// A block takes EDGES edges at a time, a warp two of them: half a warp for the neurons of each, then the whole warp for
// the inputs of one after the other, a lane an input. Last a thread for each parameter, whose sum it keeps to the end.
constexpr int EDGES = 16, BACKWARD_THREADS = 256;
constexpr int SLOPES = 2 * HIDDEN + WEIGHTS;   // of an edge: gradients before the ReLU of layers 1, 2 and 3
constexpr int VALUES = 3 + 2 * HIDDEN + 1;     // of an edge: inputs of layers 1, 2 and 3, and the 1 that biases multiply

// The gradient of a parameter is a sum over edges of slopes[a] values[b].
struct Factors {
    int a, b;
};

__device__ inline Factors factors_of(int parameter) {
    const int inputs[3] = {3, HIDDEN, HIDDEN}, outputs[3] = {HIDDEN, HIDDEN, WEIGHTS};
    int a = 0, b = 0;
    for (int layer = 0; layer < 3; layer++) {
        int in = inputs[layer], out = outputs[layer];
        if (parameter < in * out) return {a + parameter / in, b + parameter % in};
        parameter -= in * out;
        if (parameter < out) return {a + parameter, VALUES - 1};
        parameter -= out;
        a += out;
        b += in;
    }
    return {0, 0};  // a thread without a parameter
}

template <typename T>
__global__ void __launch_bounds__(BACKWARD_THREADS, sizeof(T) < 8 ? 2 : 1)
pointconv_backward(const Wide<T>* offset, const T* features, const i64* index, const Wide<T>* weight1,
                   const Wide<T>* bias1, const Wide<T>* weight2, const Wide<T>* bias2, const Wide<T>* weight3,
                   const Wide<T>* bias3, const T* grad_out, T* grad_edges, Wide<T>* grad_offset, Wide<T>* parts,
                   i64 edges, i64 queries, i64 points, i64 neighbours, i64 channels) {
    using A = Wide<T>;
    SHARED(Layers<A>, layers, [1]);
    SHARED(A, values, [EDGES][VALUES]);
    SHARED(A, slopes, [EDGES][SLOPES]);
    SHARED(Four<A>, weight, [EDGES][WEIGHTS / 4]);
    SHARED(A, direct, [EDGES][3]);  // the gradient of the offset as an input of the sum
    const int mine = threadIdx.x / WEIGHTS, o = threadIdx.x % WEIGHTS;  // a thread for (edge, neuron)
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Factors factors = factors_of(threadIdx.x);
    A* const place = values[mine];
    A *const first = place + 3, *const second = first + HIDDEN;
    A *const slope1 = slopes[mine], *const slope2 = slope1 + HIDDEN, *const slope3 = slope2 + HIDDEN;
    load_layers<A>({weight1, bias1, weight2, bias2, weight3, bias3}, layers[0]);
    __syncthreads();
    A total = 0;
    for (i64 edge0 = i64(blockIdx.x) * EDGES; edge0 < edges; edge0 += i64(gridDim.x) * EDGES) {
        const int count = edges - edge0 < EDGES ? int(edges - edge0) : EDGES;
        i64 my_row = 0, my_source = 0;
        if (mine < count) {
            my_row = (edge0 + mine) / neighbours;
            my_source = my_row / queries * points + checked(index[edge0 + mine], points);
        }
        if (o < 3) place[o] = mine < count ? offset[(edge0 + mine) * 3 + o] : A(0);
        if (o == 3) values[mine][VALUES - 1] = 1;
        __syncwarp();
        if (o < HIDDEN) first[o] = neuron<3>(layers[0].weight1[o], layers[0].bias1[o], place);
        __syncwarp();
        if (o < HIDDEN) second[o] = neuron<HIDDEN>(layers[0].weight2[o], layers[0].bias2[o], first);
        __syncwarp();
        const A my_weight = neuron<HIDDEN>(layers[0].weight3[o], layers[0].bias3[o], second);
        weight[mine][o / 4].at[o % 4] = my_weight;
        __syncwarp();
        for (int e = warp * 2; e < warp * 2 + 2 && e < count; e++) {
            const i64 row = __shfl_sync(ALL_LANES, my_row, e % 2 * WEIGHTS);
            const i64 source = __shfl_sync(ALL_LANES, my_source, e % 2 * WEIGHTS);
            A sum[WEIGHTS] = {};  // the gradient of the weights, as far as this lane's inputs go
            for (i64 c = lane; c < 3 + channels; c += 32) {
                const A input = c < 3 ? values[e][c] : wide(features[source * channels + c - 3]);
                const Four<T>* grad = reinterpret_cast<const Four<T>*>(grad_out) + (row * (3 + channels) + c) * 4;
                A slope = 0;
#pragma unroll
                for (int quad = 0; quad < WEIGHTS / 4; quad++) {
                    const Four<T> from = grad[quad];
                    const Four<A> factor = weight[e][quad];
#pragma unroll
                    for (int w = 0; w < 4; w++) {
                        slope = fused(factor.at[w], wide(from.at[w]), slope);
                        sum[quad * 4 + w] = fused(input, wide(from.at[w]), sum[quad * 4 + w]);
                    }
                }
                if (c < 3)
                    direct[e][c] = slope;
                else
                    narrow(slope, grad_edges[(edge0 + e) * channels + c - 3]);
            }
            // 16 sums over 32 lanes: each step halves the lanes that a sum is spread over and the sums that a lane holds.
#pragma unroll
            for (int half = WEIGHTS / 2; half > 0; half /= 2) {
                const bool upper = lane & 2 * half;
#pragma unroll
                for (int i = 0; i < half; i++) {
                    A sent = upper ? sum[i] : sum[i + half], kept = upper ? sum[i + half] : sum[i];
                    sum[i] = kept + __shfl_xor_sync(ALL_LANES, sent, 2 * half);
                }
            }
            sum[0] += __shfl_xor_sync(ALL_LANES, sum[0], 1);
            if (lane % 2 == 0) slopes[e][2 * HIDDEN + lane / 2] = sum[0];
        }
        __syncwarp();
        if (mine >= count || my_weight <= A(0)) slope3[o] = 0;
        __syncwarp();
        if (o < HIDDEN) {
            A sum = 0;
#pragma unroll
            for (int i = 0; i < WEIGHTS; i++) sum = fused(layers[0].weight3[i][o], slope3[i], sum);
            slope2[o] = second[o] <= A(0) ? A(0) : sum;
        }
        __syncwarp();
        if (o < HIDDEN) {
            A sum = 0;
#pragma unroll
            for (int i = 0; i < HIDDEN; i++) sum = fused(layers[0].weight2[i][o], slope2[i], sum);
            slope1[o] = first[o] <= A(0) ? A(0) : sum;
        }
        __syncwarp();
        if (o < 3 && mine < count) {
            A sum = direct[mine][o];
#pragma unroll
            for (int i = 0; i < HIDDEN; i++) sum = fused(layers[0].weight1[i][o], slope1[i], sum);
            grad_offset[(edge0 + mine) * 3 + o] = sum;
        }
        __syncthreads();
#pragma unroll 4
        for (int e = 0; e < EDGES; e++) total = fused(slopes[e][factors.a], values[e][factors.b], total);
        __syncthreads();
    }
    if (threadIdx.x < PARAMETERS) parts[i64(blockIdx.x) * PARAMETERS + threadIdx.x] = total;
}
