// Enough of CUDA to run the kernels of lib/ops/csrc on one CPU thread: every CUDA thread is a fiber that runs until it
// meets a barrier, a shuffle or a vote, and goes on when all that must meet there have come. Threads take turns in
// rising or falling order, so a missing barrier shows itself in one of the two. A barrier that some threads never reach
// ends the launch with an error instead of hanging; so does an index that a kernel refuses (__trap).
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#define RUNS_ON_HOST
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif
#define __global__
#define __device__
#define __launch_bounds__(...)

namespace host {

struct Dim { unsigned x = 1, y = 1, z = 1; };

struct Meeting {  // a place where `expected` threads wait for each other, again and again
    int expected = 0, arrived = 0;
    unsigned long round = 0;
};

struct Block;
struct Cluster;

struct Thread {
    ucontext_t start;
    jmp_buf state;
    bool begun = false, done = false;
    unsigned index = 0;
    Block* block = nullptr;
    Meeting* waits_at = nullptr;
    unsigned long waits_for = 0;
    unsigned votes = 0;  // warp operations so far: their two sets of slots take turns
};

struct Warp {
    Meeting meeting;
    uint64_t slot[2][32];
};

struct Block {
    Dim index;
    unsigned rank = 0;
    Cluster* cluster = nullptr;
    Meeting meeting;
    std::vector<Warp> warps;
    std::map<int, std::vector<char>> shared;
};

struct Cluster {
    Meeting meeting;
    std::vector<Block> blocks;
    std::vector<Thread> threads;
};

constexpr size_t STACK = 64 << 10;
inline Thread* current = nullptr;
inline jmp_buf scheduler;
inline ucontext_t scheduler_context;
inline const char* failure = nullptr;
inline void (*body)(void*) = nullptr;
inline void* body_argument = nullptr;

inline void yield() {
    if (!_setjmp(current->state)) _longjmp(scheduler, 1);
}

inline void meet(Meeting& meeting) {
    if (++meeting.arrived == meeting.expected) {
        meeting.arrived = 0;
        meeting.round++;
        return;
    }
    current->waits_at = &meeting;
    current->waits_for = meeting.round + 1;
    yield();
}

inline void fail(const char* why) {
    failure = why;
    yield();  // and never come back
}

inline Warp& warp() { return current->block->warps[current->index / 32]; }

template <typename T> const uint64_t* exchange(T value) {  // -> the values of all lanes
    static_assert(sizeof(T) <= 8);
    uint64_t* slots = warp().slot[current->votes++ % 2];
    slots[current->index % 32] = 0;
    std::memcpy(&slots[current->index % 32], &value, sizeof(T));
    meet(warp().meeting);
    return slots;
}

template <typename T> T lane_value(const uint64_t* slots, int lane) {
    T value;
    std::memcpy(&value, &slots[lane], sizeof(T));
    return value;
}

// A shared array of the running block, told apart by its line. Filled with NaN patterns: nothing may rely on zeros.
template <typename Array> Array& shared(Block& block, int line) {
    auto& memory = block.shared[line];
    if (memory.empty()) memory.assign(sizeof(Array), '\xff');
    return *reinterpret_cast<Array*>(memory.data());
}

inline void enter() {
    body(body_argument);
    current->done = true;
    _longjmp(scheduler, 1);
}

inline void resume(Thread& thread) {
    current = &thread;
    if (_setjmp(scheduler)) return;
    if (thread.begun) _longjmp(thread.state, 1);
    thread.begun = true;
    setcontext(&thread.start);
}

inline void run_cluster(Cluster& cluster, bool falling) {
    size_t count = cluster.threads.size(), left = count;
    while (left > 0) {
        bool moved = false;
        for (size_t i = 0; i < count; i++) {
            Thread& thread = cluster.threads[falling ? count - 1 - i : i];
            if (thread.done || (thread.waits_at && thread.waits_at->round < thread.waits_for)) continue;
            thread.waits_at = nullptr;
            resume(thread);
            if (failure) return;
            moved = true;
            left -= thread.done;
        }
        if (!moved) failure = "some threads wait where the others never come";
        if (!moved) return;
    }
}

template <typename... Parameters, size_t... I>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<Parameters>*>(arguments[I])...);
}

}  // namespace host

using host::Dim;
inline Dim gridDim, blockDim;
#define threadIdx (Dim{host::current->index, 0, 0})
#define blockIdx (host::current->block->index)
#define SHARED(type, name, dims) auto& name = host::shared<type dims>(*host::current->block, __LINE__)

inline void __syncthreads() { host::meet(host::current->block->meeting); }
inline void __syncwarp() { host::meet(host::warp().meeting); }
inline void cluster_barrier() { host::meet(host::current->block->cluster->meeting); }
template <typename T> T* in_block(T* mine, unsigned rank) {
    host::Block& own = *host::current->block;
    for (auto& [line, memory] : own.shared) {
        auto& there = own.cluster->blocks.at(rank).shared[line];
        std::ptrdiff_t offset = reinterpret_cast<char*>(mine) - memory.data();
        if (offset >= 0 && offset < std::ptrdiff_t(memory.size()) && !there.empty())
            return reinterpret_cast<T*>(there.data() + offset);
    }
    host::fail("no such shared variable in the other block: it has not started");
    return nullptr;
}
inline void __trap() { host::fail("trap"); }

template <typename T> T __shfl_sync(unsigned, T value, int lane) {
    return host::lane_value<T>(host::exchange(value), lane & 31);
}
template <typename T> T __shfl_up_sync(unsigned, T value, unsigned step) {
    int lane = host::current->index % 32;
    return host::lane_value<T>(host::exchange(value), lane >= int(step) ? lane - int(step) : lane);
}
template <typename T> T __shfl_xor_sync(unsigned, T value, int step) {
    int lane = host::current->index % 32;
    return host::lane_value<T>(host::exchange(value), lane ^ step);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
    const uint64_t* slots = host::exchange(vote);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; lane++) bits |= unsigned(host::lane_value<bool>(slots, lane)) << lane;
    return bits;
}
inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline unsigned __reduce_max_sync(unsigned, unsigned value) {
    const uint64_t* slots = host::exchange(value);
    unsigned most = 0;
    for (int lane = 0; lane < 32; lane++) most = std::max(most, host::lane_value<unsigned>(slots, lane));
    return most;
}

inline int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline double __dadd_rn(double a, double b) { return a + b; }  // compiled without contraction
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __double2float_ru(double value) {
    float near = float(value);
    return double(near) < value ? std::nextafterf(near, std::numeric_limits<float>::infinity()) : near;
}
template <typename To, typename From> To same_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To out;
    std::memcpy(&out, &value, sizeof(To));
    return out;
}
inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
inline double __longlong_as_double(long long bits) { return same_bits<double>(bits); }
inline long long __double_as_longlong(double value) { return same_bits<long long>(value); }

namespace host {

// Runs a kernel over its grid, cluster after cluster. -> nullptr, or what went wrong.
template <typename... Parameters>
const char* launch(void (*kernel)(Parameters...), Dim grid, unsigned threads, unsigned clustered, bool falling,
                   void** arguments) {
    struct Call {
        void (*kernel)(Parameters...);
        void** arguments;
    } it{kernel, arguments};
    body = [](void* argument) {
        auto* call_ = static_cast<Call*>(argument);
        call(call_->kernel, call_->arguments, std::index_sequence_for<Parameters...>{});
    };
    body_argument = &it;
    failure = nullptr;
    gridDim = grid;
    blockDim = {threads, 1, 1};
    if (threads % 32 || grid.x % clustered) return "blocks must be whole warps and grids whole clusters";
    std::vector<char> stacks(size_t(threads) * clustered * STACK);
    for (unsigned y = 0; y < grid.y; y++) {
        for (unsigned x = 0; x < grid.x; x += clustered) {
            Cluster cluster;
            cluster.meeting.expected = int(threads * clustered);
            cluster.blocks.resize(clustered);
            cluster.threads.resize(size_t(threads) * clustered);
            for (unsigned rank = 0; rank < clustered; rank++) {
                Block& block = cluster.blocks[rank];
                block.index = {x + rank, y, 0};
                block.rank = rank;
                block.cluster = &cluster;
                block.meeting.expected = int(threads);
                block.warps.resize(threads / 32);
                for (Warp& warp : block.warps) warp.meeting.expected = 32;
                for (unsigned t = 0; t < threads; t++) {
                    size_t number = size_t(rank) * threads + t;
                    Thread& thread = cluster.threads[number];
                    thread.index = t;
                    thread.block = &block;
                    getcontext(&thread.start);
                    thread.start.uc_stack.ss_sp = &stacks[number * STACK];
                    thread.start.uc_stack.ss_size = STACK;
                    thread.start.uc_link = nullptr;
                    makecontext(&thread.start, enter, 0);
                }
            }
            run_cluster(cluster, falling);
            if (failure) return failure;
        }
    }
    return nullptr;
}

}  // namespace host
