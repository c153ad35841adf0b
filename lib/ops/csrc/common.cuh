// What the kernels share: scalar types, exact distances, warp reductions, access to a cluster's other blocks.
// No header of CUDA, torch or the host is included, so NVRTC needs nothing but this folder.
#pragma once

using i64 = long long;
constexpr unsigned ALL_LANES = 0xffffffffu;

// A block's shared array. (tests/cuda_on_host/ gives the macro another meaning, to run the kernels on a CPU.)
#ifndef SHARED
#define SHARED(type, name, dims) __shared__ type name dims
#endif

// ---- Scalars: sums run in Wide<T>, which is float for float and bfloat16, double for double.

struct bfloat16 {
    unsigned short bits;
};

template <typename T> struct WideOf { using type = float; };
template <> struct WideOf<double> { using type = double; };
template <typename T> using Wide = typename WideOf<T>::type;

__device__ inline float wide(float value) { return value; }
__device__ inline double wide(double value) { return value; }
__device__ inline float wide(bfloat16 value) { return __uint_as_float(unsigned(value.bits) << 16); }

__device__ inline void narrow(float value, float& out) { out = value; }
__device__ inline void narrow(double value, double& out) { out = value; }
__device__ inline void narrow(float value, bfloat16& out) {  // to the nearest, ties to even
    unsigned bits = __float_as_uint(value);
    out.bits = value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

__device__ inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return fma(a, b, c); }

// Four neighbours in memory, moved by one instruction.
template <typename T> struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Four {
    T at[4];
};

template <typename T> __device__ T not_a_number();
template <> __device__ inline float not_a_number<float>() { return __uint_as_float(0x7fffffffu); }
template <> __device__ inline double not_a_number<double>() { return __longlong_as_double(0x7fffffffffffffffll); }
template <typename T> __device__ T infinity();
template <> __device__ inline float infinity<float>() { return __uint_as_float(0x7f800000u); }
template <> __device__ inline double infinity<double>() { return __longlong_as_double(0x7ff0000000000000ll); }

// LeakyReLU(0.1) of the whole network (reference.NEGATIVE_SLOPE). NaN stays NaN.
template <typename A> __device__ inline A leaky_relu(A value) { return value > A(0) ? value : A(0.1) * value; }

// ---- Indices: an index outside its cloud stops the kernel, as torch's own indexing does on a GPU.

__device__ inline i64 checked(i64 index, i64 points) {
    if (index < 0 || index >= points) __trap();
    return index;
}

// ---- Distances. The exact one decides: float64, each operation rounded by itself, as reference.squared_distances.
// The quick one is there to rule points out: `quick > ceiling(d)` proves `exact > d`.
//   float: the difference, its square and two fused sums are five roundings, each within 2^-24, and below the smallest
//   normal number at most 2^-147 in all; the ceiling leaves 2^-20 and 2^-140 of room. Overflow goes to infinity, which
//   no finite ceiling reaches. double: quick is exact.

template <typename T> __device__ inline double exact_distance(const T (&a)[3], const T (&b)[3]) {
    double dx = double(a[0]) - double(b[0]), dy = double(a[1]) - double(b[1]), dz = double(a[2]) - double(b[2]);
    return __dadd_rn(__dadd_rn(__dmul_rn(dx, dx), __dmul_rn(dy, dy)), __dmul_rn(dz, dz));
}

__device__ inline float quick_distance(const float (&a)[3], const float (&b)[3]) {
    float dx = a[0] - b[0], dy = a[1] - b[1], dz = a[2] - b[2];
    return fmaf(dz, dz, fmaf(dy, dy, dx * dx));
}
__device__ inline double quick_distance(const double (&a)[3], const double (&b)[3]) { return exact_distance(a, b); }

template <typename T> __device__ T ceiling(double distance);
template <> __device__ inline float ceiling<float>(double distance) {
    return __double2float_ru(distance * (1 + 0x1p-20) + 0x1p-140);
}
template <> __device__ inline double ceiling<double>(double distance) { return distance; }

// ---- Warps: the largest or smallest value of 32 lanes, known to all of them.

__device__ inline unsigned warp_max(unsigned value) {
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(ALL_LANES, value);
#else
    for (int step = 16; step > 0; step /= 2) {
        unsigned other = __shfl_xor_sync(ALL_LANES, value, step);
        value = other > value ? other : value;
    }
    return value;
#endif
}

__device__ inline unsigned warp_min(unsigned value) { return ~warp_max(~value); }

template <typename A> __device__ inline A warp_sum(A value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

// ---- Clusters (compute capability 9.0 and later; elsewhere a cluster is one block).

#ifndef RUNS_ON_HOST
__device__ inline void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    __syncwarp();  // `aligned` below: the warp arrives as one
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    __syncthreads();
#endif
}

// Where the shared variable `mine` of this block lies in block `rank` of the cluster.
template <typename T> __device__ inline T* in_block(T* mine, unsigned rank) {
#if __CUDA_ARCH__ >= 900
    T* there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(mine), "r"(rank));
    return there;
#else
    return mine;
#endif
}
#endif
