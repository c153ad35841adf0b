// Exact k nearest neighbours, k <= 32: a warp per QUERIES queries, the best 32 of a query in order, one a lane.
//
// The block's warps pass over the support in tiles of shared memory. A lane takes one point; the quick distance rules
// nearly all out; those left are compared by (exact distance, index), so the result does not depend on the order of the
// visit. Groups of 32 points are visited `stride` apart: a cloud in scan order then looks shuffled, and few points enter
// a list only to be pushed out again.
#include "common.cuh"

constexpr int WARPS = 8, GROUPS = 32, TILE = 32 * GROUPS;

template <typename T> struct Nearest {  // of one query; distance and index are this lane's place in the list
    double distance, worst;             // worst, last: the k-th place, known to every lane
    int index, last;
    T limit;
};

// Puts the points of the lanes in `hits`, each at `distance` from the query, into the list.
template <typename T>
__device__ inline void insert(Nearest<T>& list, unsigned hits, double distance, int index, int k) {
    const int lane = threadIdx.x % 32;
    do {
        int source = __ffs(hits) - 1;
        hits &= hits - 1;
        double d = __shfl_sync(ALL_LANES, distance, source);
        int j = __shfl_sync(ALL_LANES, index, source);
        if (d > list.worst || (d == list.worst && j > list.last)) continue;
        bool before = list.distance < d || (list.distance == d && list.index < j);
        int place = __popc(__ballot_sync(ALL_LANES, before));
        double distance_below = __shfl_up_sync(ALL_LANES, list.distance, 1);
        int index_below = __shfl_up_sync(ALL_LANES, list.index, 1);
        if (lane >= place) {
            list.distance = lane == place ? d : distance_below;
            list.index = lane == place ? j : index_below;
        }
        list.worst = __shfl_sync(ALL_LANES, list.distance, k - 1);
        list.last = __shfl_sync(ALL_LANES, list.index, k - 1);
    } while (hits);
    list.limit = ceiling<T>(list.worst);
}

template <typename T, int QUERIES>
__global__ void __launch_bounds__(32 * WARPS, 2)
knn(const T* query, const T* support, i64* index, i64 queries, i64 points, i64 k, i64 stride) {
    SHARED(T, tile, [3][TILE]);
    SHARED(int, group_of, [GROUPS]);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const i64 first = (i64(blockIdx.x) * WARPS + warp) * QUERIES;
    query += i64(blockIdx.y) * queries * 3;
    support += i64(blockIdx.y) * points * 3;
    index += i64(blockIdx.y) * queries * k;

    T at[QUERIES][3];
    Nearest<T> list[QUERIES];
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        i64 row = first + q < queries ? first + q : queries - 1;
        for (int c = 0; c < 3; c++) at[q][c] = query[row * 3 + c];
        list[q] = {infinity<double>(), infinity<double>(), 0x7fffffff, 0x7fffffff, infinity<T>()};
    }

    const i64 groups = (points + 31) / 32;
    const i64 step = WARPS * stride % groups;
    i64 group = warp * stride % groups;  // of this warp's next load
    for (i64 start = 0; start < groups; start += GROUPS) {
        __syncthreads();
        for (int slot = warp; slot < GROUPS; slot += WARPS) {
            i64 i = group * 32 + lane;
            bool inside = start + slot < groups && i < points;  // NaN beyond: no comparison lets it in
            for (int c = 0; c < 3; c++)
                tile[c][slot * 32 + lane] = inside ? support[i * 3 + c] : not_a_number<T>();
            if (lane == 0) group_of[slot] = int(group);
            group += step;
            if (group >= groups) group -= groups;
        }
        __syncthreads();
        int count = groups - start < GROUPS ? int(groups - start) : GROUPS;
        if (first >= queries) count = 0;
        for (int slot = 0; slot < count; slot++) {
            const int i = slot * 32 + lane;
            const T point[3] = {tile[0][i], tile[1][i], tile[2][i]};
#pragma unroll
            for (int q = 0; q < QUERIES; q++) {
                unsigned hits = __ballot_sync(ALL_LANES, quick_distance(point, at[q]) <= list[q].limit);
                if (hits) insert(list[q], hits, exact_distance(point, at[q]), group_of[slot] * 32 + lane, int(k));
            }
        }
    }
#pragma unroll
    for (int q = 0; q < QUERIES; q++)
        if (first + q < queries && lane < k)  // NaN finds no neighbour; its row must still name points
            index[(first + q) * k + lane] = list[q].index < points ? list[q].index : points - 1;
}
