// The kernel's threads as a loop on the CPU. Reads cases from stdin, writes results to stdout; 0 once stdin is empty.
//
// A case is 8 int32 (what, dtype, planes, height, width, kh, kw, threads) and two arrays of that dtype:
//   what 0, convolve:     x and kernels, answered by y, in the specialised form;
//   what 1, convolve_any: the same, in the form for any size;
//   what 2, correlate:    x and dy, answered by the kernels' gradient.
// With what + 10 the answer is not what was computed, but how many of the threads wrote each value.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "dynamic_conv.cuh"

using namespace edgepose;

namespace {

// As many values as are used and not one more, so that the address sanitizer sees every step over an end.
template <typename T>
struct Array {
    explicit Array(size_t count) : count(count), values(new (std::align_val_t(16)) T[count]) {}
    ~Array() { operator delete[](values, std::align_val_t(16)); }
    void read() {
        if (fread(values, sizeof(T), count, stdin) != count) abort();
    }
    void write() const { fwrite(values, sizeof(T), count, stdout); }
    size_t count;
    T* values;
};

struct Case {
    int what, dtype;
    Planes planes;
    int kh, kw, threads;
};

// One thread of the grid.
template <typename T>
void run(const Case& c, int what, const T* first, const T* second, T* result, int thread) {
    if (what == 2) {
        const int warp = thread / 32, taps = c.kh * c.kw;
        if (thread % 32 != 0 || warp / taps >= c.planes.count) return;  // one lane for all that the shuffles add up
        float sum = 0;
        for (int lane = 0; lane < 32; ++lane)
            sum += correlate<T>(first, second, c.planes, c.kh, c.kw, warp / taps, warp % taps, lane, 32);
        narrow(sum, result[warp]);
    } else if (what == 1) {
        convolve_any<T>(first, second, result, c.planes, c.kh, c.kw, thread);
    } else if (c.kh == 7 && c.kw == 7) {
        convolve<T, 7, 7>(first, second, result, c.planes, thread);
    } else if (c.kh == 7 && c.kw == 5) {
        convolve<T, 7, 5>(first, second, result, c.planes, thread);
    } else if (c.kh == 5 && c.kw == 5) {
        convolve<T, 5, 5>(first, second, result, c.planes, thread);
    } else {
        abort();
    }
}

template <typename T>
void answer(const Case& c) {
    const int what = c.what % 10;
    const size_t size = size_t(c.planes.count) * c.planes.height * c.planes.width;
    const size_t taps = size_t(c.planes.count) * c.kh * c.kw;
    Array<T> first(size), second(what == 2 ? size : taps), result(what == 2 ? taps : size), writes(result.count);
    first.read(), second.read();
    for (size_t i = 0; i < result.count; ++i) narrow(0, writes.values[i]);
    for (int thread = 0; thread < c.threads; ++thread) {
        const bool counts = c.what >= 10;
        for (size_t i = 0; counts && i < result.count; ++i) narrow(-1000, result.values[i]);
        run<T>(c, what, first.values, second.values, result.values, thread);
        for (size_t i = 0; counts && i < result.count; ++i)
            if (widen(result.values[i]) != -1000) narrow(widen(writes.values[i]) + 1, writes.values[i]);
    }
    (c.what >= 10 ? writes : result).write();
}

}  // namespace

int main() {
    int32_t head[8];
    while (fread(head, sizeof(int32_t), 8, stdin) == 8) {
        const Case c{head[0], head[1], {head[2], head[3], head[4]}, head[5], head[6], head[7]};
        if (c.dtype == 0) answer<float>(c);
        if (c.dtype == 1) answer<Half>(c);
        if (c.dtype == 2) answer<BFloat16>(c);
    }
}
