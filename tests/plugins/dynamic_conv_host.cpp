// The kernel's threads as a loop on the CPU. Reads cases from stdin, writes results to stdout; 0 once stdin is empty.
//
// A case is 7 int32 (what, dtype, planes, height, width, kh, kw) and two arrays of that dtype:
//   what 0, convolve:     x and kernels, answered by y, in the specialised form where there is one;
//   what 1, convolve_any: the same, in the form for any size;
//   what 2, correlate:    x and dy, answered by the kernels' gradient.
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

// What a grid holds beyond the last task: the kernel has to leave those threads out.
constexpr int kBeyond = 130;

template <typename T>
void answer(int what, Planes planes, int kh, int kw) {
    const size_t size = size_t(planes.count) * planes.height * planes.width, taps = size_t(planes.count) * kh * kw;
    Array<T> x(size), other(what == 2 ? size : taps), result(what == 2 ? taps : size);
    x.read(), other.read();
    const int tasks = planes.count * tasks_of_plane(planes, what == 0 ? kRows : 1);
    if (what == 2) {
        for (size_t i = 0; i < taps; ++i) {
            float sum = 0;
            for (int lane = 0; lane < 32; ++lane)
                sum += correlate<T>(x.values, other.values, planes, kh, kw, int(i / (kh * kw)), int(i % (kh * kw)), lane, 32);
            narrow(sum, result.values[i]);
        }
    }
    for (int i = 0; what < 2 && i < tasks + kBeyond; ++i) {
        const T *a = x.values, *k = other.values;
        if (what == 1) convolve_any<T>(a, k, result.values, planes, kh, kw, i);
        else if (kh == 7 && kw == 7) convolve<T, 7, 7>(a, k, result.values, planes, i);
        else if (kh == 7 && kw == 5) convolve<T, 7, 5>(a, k, result.values, planes, i);
        else if (kh == 5 && kw == 5) convolve<T, 5, 5>(a, k, result.values, planes, i);
        else abort();
    }
    result.write();
}

}  // namespace

int main() {
    int32_t head[7];
    while (fread(head, sizeof(int32_t), 7, stdin) == 7) {
        const Planes planes{head[2], head[3], head[4]};
        if (head[1] == 0) answer<float>(head[0], planes, head[5], head[6]);
        if (head[1] == 1) answer<Half>(head[0], planes, head[5], head[6]);
        if (head[1] == 2) answer<BFloat16>(head[0], planes, head[5], head[6]);
    }
}
