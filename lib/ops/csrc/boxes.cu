// Overlaps of boxes, and non-maximum suppression. A table holds 8 doubles a box, as reference_boxes.upright makes them:
// x, y, l/2, w/2, cos yaw, sin yaw, z, h/2.
//
// The arithmetic is that of reference_boxes.py, operation by operation: products are rounded by themselves (`times`), so
// no compiler merges them into a sum.
#include "common.cuh"

using u64 = unsigned long long;
constexpr int BITS = 64;  // boxes a word

__device__ inline double times(double a, double b) { return __dmul_rn(a, b); }
__device__ inline double absolute(double a) { return a < 0 ? -a : a; }
__device__ inline double smaller(double a, double b) { return a < b ? a : b; }
__device__ inline double larger(double a, double b) { return a > b ? a : b; }
__device__ inline double into(double value, double half) { return larger(smaller(value, half), -half); }
__device__ inline double ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }
__device__ inline double area(const double* box) { return times(times(4, box[2]), box[3]); }

__device__ inline double crossing(double distance, double step) {
    return absolute(distance) < absolute(step) && (distance > 0) == (step > 0) ? distance / step : 0;
}

__device__ inline void sort(double& a, double& b) {
    double low = smaller(a, b);
    b = larger(a, b);
    a = low;
}

// reference_boxes.bev_intersection of two rows.
__device__ inline double intersection(const double* first, const double* second) {
    const double length1 = first[2], width1 = first[3], cos1 = first[4], sin1 = first[5];
    const double length2 = second[2], width2 = second[3], cos2 = second[4], sin2 = second[5];
    const double dx = first[0] - second[0], dy = first[1] - second[1];
    const double cos = times(cos1, cos2) + times(sin1, sin2), sin = times(sin1, cos2) - times(cos1, sin2);
    const double x = times(cos2, dx) + times(sin2, dy), y = times(cos2, dy) - times(sin2, dx);
    const double ahead_x = times(length1, cos), ahead_y = times(length1, sin);
    const double left_x = times(-width1, sin), left_y = times(width1, cos);
    if (absolute(x) >= length2 + (absolute(ahead_x) + absolute(left_x))) return 0;
    if (absolute(y) >= width2 + (absolute(ahead_y) + absolute(left_y))) return 0;
    const double own_x = times(cos1, dx) + times(sin1, dy), own_y = times(cos1, dy) - times(sin1, dx);
    if (absolute(own_x) >= length1 + (absolute(times(length2, cos)) + absolute(times(width2, sin)))) return 0;
    if (absolute(own_y) >= width1 + (absolute(times(length2, sin)) + absolute(times(width2, cos)))) return 0;

    double start_x = x + ahead_x + left_x, start_y = y + ahead_y + left_y;
    const double origin_x = into(start_x, length2), origin_y = into(start_y, width2);
    double last_x = 0, last_y = 0, twice = 0;
    for (int corner = 1; corner <= 4; corner++) {  // the others in turn, and the first again
        const bool ahead = corner > 2, left = corner == 1 || corner == 4;
        const double stop_x = (ahead ? x + ahead_x : x - ahead_x) + (left ? left_x : -left_x);
        const double stop_y = (ahead ? y + ahead_y : y - ahead_y) + (left ? left_y : -left_y);
        const double step_x = stop_x - start_x, step_y = stop_y - start_y;
        double a = crossing(-length2 - start_x, step_x), b = crossing(length2 - start_x, step_x);
        double c = crossing(-width2 - start_y, step_y), d = crossing(width2 - start_y, step_y);
        sort(a, b);
        sort(c, d);
        sort(a, c);
        sort(b, d);
        sort(b, c);
#pragma unroll
        for (int k = 0; k < 5; k++) {
            const double way = k == 0 ? a : k == 1 ? b : k == 2 ? c : d;
            const double at_x = k == 4 ? stop_x : start_x + times(way, step_x);
            const double at_y = k == 4 ? stop_y : start_y + times(way, step_y);
            const double point_x = into(at_x, length2) - origin_x, point_y = into(at_y, width2) - origin_y;
            twice += times(last_x + point_x, point_y - last_y);
            last_x = point_x;
            last_y = point_y;
        }
        start_x = stop_x;
        start_y = stop_y;
    }
    return larger(smaller(times(twice, 0.5), smaller(area(first), area(second))), 0);
}

__device__ inline double bev_iou(const double* first, const double* second) {
    const double both = intersection(first, second);
    return ratio(both, area(first) + area(second) - both);
}

// first (N, 8), second (columns, 8) -> out (N, columns), of the volumes or of the rectangles seen from above. A thread
// per value of out.
__global__ void box_iou(const double* first, const double* second, double* out, i64 total, i64 columns, i64 volumes) {
    i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= total) return;
    const double* one = first + i / columns * 8;
    const double* two = second + i % columns * 8;
    if (!volumes) {
        out[i] = bev_iou(one, two);
        return;
    }
    const double low1 = one[6] - one[7], high1 = one[6] + one[7], low2 = two[6] - two[7], high2 = two[6] + two[7];
    const double tall = larger(smaller(high1, high2) - larger(low1, low2), 0);
    const double both = times(intersection(one, two), tall);
    out[i] = ratio(both, times(area(one), high1 - low1) + times(area(two), high2 - low2) - both);
}

// Bit c of bits[row][word]: box 64 word + c comes behind `row` and overlaps it too much. table (count, 8) by falling
// score. A block of 64 threads per 64 rows and word; words before the row's own are never read and not written.
__global__ void nms_bits(const double* table, u64* bits, i64 count, i64 words, i64 threshold) {
    const i64 row = i64(blockIdx.y) * BITS + threadIdx.x, first = i64(blockIdx.x) * BITS;
    if (blockIdx.x < blockIdx.y || row >= count) return;
    const double limit = __longlong_as_double(threshold);
    u64 word = 0;
    for (int c = 0; c < BITS && first + c < count; c++)
        if (first + c > row && bev_iou(table + row * 8, table + (first + c) * 8) > limit) word |= u64(1) << c;
    bits[row * words + blockIdx.x] = word;
}

// From the bits to the boxes that stay: their places in rising order, and how many. One block; `gone` (words) is zeros.
// 64 boxes at a time, which every thread decides for itself; then each thread strikes boxes of other words.
__global__ void nms_keep(const u64* bits, u64* gone, i64* kept, i64* number, i64 count, i64 words, i64 limit) {
    i64 found = 0;
    for (i64 word = 0; word < words && found < limit; word++) {
        __syncthreads();
        u64 out = gone[word], stays = 0;
        const i64 first = word * BITS;
        for (int c = 0; c < BITS && first + c < count && found < limit; c++) {
            if (out >> c & 1) continue;
            if (threadIdx.x == 0) kept[found] = first + c;
            found++;
            stays |= u64(1) << c;
            out |= bits[(first + c) * words + word];
        }
        for (i64 other = word + 1 + threadIdx.x; other < words; other += blockDim.x) {
            u64 struck = gone[other];
            for (int c = 0; c < BITS; c++)
                if (stays >> c & 1) struck |= bits[(first + c) * words + other];
            gone[other] = struck;
        }
    }
    if (threadIdx.x == 0) *number = found;
}
