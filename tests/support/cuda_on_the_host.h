// Enough of CUDA to run a kernel on the processor: every thread of a block is a thread, and 32 of them meet
// in a shuffle.
#include <barrier>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __global__

struct Place { int x, y; };
static thread_local Place threadIdx, blockIdx, blockDim;

struct Warp {
    std::barrier<> meeting{32};
    float values[32];
};
static thread_local Warp *warp;

static float __shfl_xor_sync(unsigned, float value, int distance) {
    const int lane = threadIdx.x % 32;
    warp->values[lane] = value;
    warp->meeting.arrive_and_wait();
    const float other = warp->values[lane ^ distance];
    warp->meeting.arrive_and_wait();
    return other;
}

static float from_bits(unsigned short bits) {
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    return (float)half;
}

static unsigned short to_bits(float value) {
    const _Float16 half = (_Float16)value;
    unsigned short bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}

static void run_blocks(int x, int y, int threads, const std::function<void()> &kernel) {
    std::vector<std::unique_ptr<Warp>> warps;
    for (int warp_index = 0; warp_index < threads / 32; ++warp_index) warps.push_back(std::make_unique<Warp>());
    std::vector<std::thread> running;
    for (int thread = 0; thread < threads; ++thread)
        running.emplace_back([&, thread] {
            threadIdx = {thread, 0}, blockDim = {threads, 1}, warp = warps[thread / 32].get();
            for (int row = 0; row < y; ++row)
                for (int block = 0; block < x; ++block) {
                    blockIdx = {block, row};
                    kernel();
                }
        });
    for (auto &thread : running) thread.join();
}
