// Furthest point sampling: `blocks` blocks (a cluster) per cloud, every cloud of the batch in one launch.
//
// Each thread keeps its points and their distances to the nearest pick in registers. A pick is one pass: rule out points
// by the quick distance, lower the distances of the few that are left exactly, agree on the furthest point. Distances
// are never negative, so their bit patterns order as the numbers do and integers are compared. What a thread or a warp
// found last time still holds where none of its distances fell, which is nearly everywhere after the first picks.
#include "common.cuh"

constexpr int MAX_CANDIDATES = 128;  // warps of all blocks of a cluster

template <typename T> struct Candidate {
    unsigned long long key;  // bits of the squared distance
    int index;
    T at[3];
};

template <typename T> __device__ inline bool is_ahead(const Candidate<T>& a, const Candidate<T>& b) {
    return a.key > b.key || (a.key == b.key && a.index < b.index);
}

// The lane that holds the furthest candidate of the warp, ties to the lower index.
__device__ inline int furthest_lane(unsigned long long key, int index) {
    unsigned high = unsigned(key >> 32), low = unsigned(key);
    unsigned most = warp_max(high);
    bool ahead = high == most;
    most = warp_max(ahead ? low : 0);
    ahead = ahead && low == most;
    unsigned first = warp_min(ahead ? unsigned(index) : 0xffffffffu);
    return __ffs(__ballot_sync(ALL_LANES, ahead && unsigned(index) == first)) - 1;
}

template <typename T> __device__ inline Candidate<T> warp_furthest(const Candidate<T>& mine) {
    int lane = furthest_lane(mine.key, mine.index);
    Candidate<T> best;
    best.key = __shfl_sync(ALL_LANES, mine.key, lane);
    best.index = __shfl_sync(ALL_LANES, mine.index, lane);
    for (int c = 0; c < 3; c++) best.at[c] = __shfl_sync(ALL_LANES, mine.at[c], lane);
    return best;
}

// The furthest candidate of all warps of all blocks. One barrier: the two tables take turns.
template <typename T>
__device__ inline Candidate<T> agree(const Candidate<T>& of_warp, Candidate<T>* table, unsigned rank, unsigned blocks) {
    unsigned lane = threadIdx.x % 32, warps = blockDim.x / 32, total = warps * blocks;
    Candidate<T>* slot = table + rank * warps + threadIdx.x / 32;
    if (lane < blocks) *(blocks > 1 ? in_block(slot, lane) : slot) = of_warp;
    if (blocks > 1) cluster_barrier(); else __syncthreads();
    unsigned long long key = 0;
    int index = 0x7fffffff;
    unsigned from = 0;
    for (unsigned i = lane; i < total; i += 32) {
        if (table[i].key > key || (table[i].key == key && table[i].index < index)) {
            key = table[i].key;
            index = table[i].index;
            from = i;
        }
    }
    return table[__shfl_sync(ALL_LANES, from, furthest_lane(key, index))];
}

// POINTS points a thread, in registers. Point p of a thread is point (rank * POINTS + p) * blockDim.x + threadIdx.x.
template <typename T, int POINTS>
__global__ void __launch_bounds__(512, 1)
furthest_point_sample(const T* xyz, i64* picks, i64 points, i64 count, i64 blocks) {
    SHARED(Candidate<T>, table, [2][MAX_CANDIDATES]);
    const unsigned rank = blockIdx.x % unsigned(blocks);
    const i64 cloud = blockIdx.x / unsigned(blocks);
    xyz += cloud * points * 3;
    picks += cloud * count;

    T at[POINTS][3], limit[POINTS];
    double nearest[POINTS];
    const int first = int(rank * POINTS * blockDim.x + threadIdx.x);
#pragma unroll
    for (int p = 0; p < POINTS; p++) {
        i64 i = first + i64(p) * blockDim.x;
        bool inside = i < points;
        for (int c = 0; c < 3; c++) at[p][c] = inside ? xyz[i * 3 + c] : T(0);
        nearest[p] = inside ? infinity<double>() : 0;  // points beyond the end are never ahead: their index is higher
        limit[p] = inside ? infinity<T>() : T(-1);
    }
    T last[3] = {xyz[0], xyz[1], xyz[2]};
    if (rank == 0 && threadIdx.x == 0) picks[0] = 0;
    if (blocks > 1) cluster_barrier();  // no block writes to another one before that has started

    Candidate<T> mine = {}, of_warp = {};
    for (i64 pick = 1; pick < count; pick++) {
        bool fell = pick == 1;
#pragma unroll
        for (int p = 0; p < POINTS; p++) {
            if (quick_distance(at[p], last) <= limit[p]) {
                double distance = exact_distance(at[p], last);
                if (distance < nearest[p]) {
                    nearest[p] = distance;
                    limit[p] = ceiling<T>(distance);
                    fell = true;
                }
            }
        }
        if (__any_sync(ALL_LANES, fell)) {
            mine.key = 0;
            mine.index = 0x7fffffff;
#pragma unroll
            for (int p = 0; p < POINTS; p++) {  // indices rise with p: a later equal stays behind
                unsigned long long key = __double_as_longlong(nearest[p]);
                if (p == 0 || key > mine.key) {
                    mine.key = key;
                    mine.index = first + p * int(blockDim.x);
                    for (int c = 0; c < 3; c++) mine.at[c] = at[p][c];
                }
            }
            of_warp = warp_furthest(mine);
        }
        Candidate<T> best = agree(of_warp, table[pick % 2], rank, unsigned(blocks));
        for (int c = 0; c < 3; c++) last[c] = best.at[c];
        if (rank == 0 && threadIdx.x == 0) picks[pick] = best.index;
    }
}

// The same for clouds beyond the registers: `nearest`, a double a point, lies in global memory.
template <typename T>
__global__ void __launch_bounds__(512, 1)
furthest_point_sample_large(const T* xyz, double* nearest, i64* picks, i64 points, i64 count, i64 blocks) {
    SHARED(Candidate<T>, table, [2][MAX_CANDIDATES]);
    const unsigned rank = blockIdx.x % unsigned(blocks);
    const i64 cloud = blockIdx.x / unsigned(blocks);
    xyz += cloud * points * 3;
    nearest += cloud * points;
    picks += cloud * count;
    T last[3] = {xyz[0], xyz[1], xyz[2]};
    if (rank == 0 && threadIdx.x == 0) picks[0] = 0;
    if (blocks > 1) cluster_barrier();

    for (i64 pick = 1; pick < count; pick++) {
        Candidate<T> mine = {0, 0x7fffffff, {}};
        for (i64 i = rank * blockDim.x + threadIdx.x; i < points; i += blocks * blockDim.x) {
            Candidate<T> here;
            for (int c = 0; c < 3; c++) here.at[c] = xyz[i * 3 + c];
            double distance = exact_distance(here.at, last);
            if (pick > 1) distance = nearest[i] < distance ? nearest[i] : distance;
            nearest[i] = distance;
            here.key = __double_as_longlong(distance);
            here.index = int(i);
            if (is_ahead(here, mine)) mine = here;
        }
        Candidate<T> best = agree(warp_furthest(mine), table[pick % 2], rank, unsigned(blocks));
        for (int c = 0; c < 3; c++) last[c] = best.at[c];
        if (rank == 0 && threadIdx.x == 0) picks[pick] = best.index;
    }
}
