// The per-sample dynamic depthwise convolution (DITN, section 3.3) and the gradient of its kernels, on planes in NCHW order:
//
//   y[p](i, j) = sum over u, v of x[p](i + u - kh / 2, j + v - kw / 2) * k[p](u, v),    zero outside the plane,
//
// where p runs over the N * C planes of all samples: each has its own kernel, so samples and channels are the same thing.
// The gradient of x is the same convolution of y's with the kernels turned by half a turn.
//
// A thread computes kRows x kStrip outputs. It walks down the input rows, holds one row's window and the whole kernel in
// registers, and adds every input to all the outputs that it belongs to. Neighbours' halos come from the L1 cache, so
// there is no shared memory, no barrier, and any batch makes one flat grid of threads.
//
// This file includes nothing: nvcc compiles it into the plugin library, NVRTC at run time, and a host compiler for the
// tests, where the "threads" are a loop.
#pragma once

#ifdef __CUDACC__
#define EDGEPOSE_FUNCTION __device__ __forceinline__
#define EDGEPOSE_SHARED __host__ __device__ inline
#define EDGEPOSE_CONSTANT static __device__ const __align__(16)
#define EDGEPOSE_UNROLL _Pragma("unroll")
#else
#define EDGEPOSE_FUNCTION inline
#define EDGEPOSE_SHARED inline
#define EDGEPOSE_CONSTANT alignas(16) static const
#define EDGEPOSE_UNROLL
#endif

namespace edgepose {

// Outputs of a thread: rows, and columns. A strip of 16-bit values is one 16-byte access.
constexpr int kRows = 4;
constexpr int kStrip = 8;

// The 16-bit types as their bits, so that no header is needed.
struct Half {
    unsigned short bits;
};
struct BFloat16 {
    unsigned short bits;
};

EDGEPOSE_FUNCTION float as_float(unsigned int bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
#endif
}

EDGEPOSE_FUNCTION unsigned int as_bits(float value) {
#ifdef __CUDACC__
    return __float_as_uint(value);
#else
    unsigned int bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    return bits;
#endif
}

EDGEPOSE_FUNCTION float widen(float value) { return value; }

EDGEPOSE_FUNCTION float widen(BFloat16 value) { return as_float(static_cast<unsigned int>(value.bits) << 16); }

EDGEPOSE_FUNCTION float widen(Half value) {
#ifdef __CUDA_ARCH__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
#else
    _Float16 half;
    __builtin_memcpy(&half, &value.bits, sizeof(half));
    return static_cast<float>(half);
#endif
}

EDGEPOSE_FUNCTION void narrow(float value, float& result) { result = value; }

EDGEPOSE_FUNCTION void narrow(float value, Half& result) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    const _Float16 half = static_cast<_Float16>(value);
    __builtin_memcpy(&result.bits, &half, sizeof(half));
#endif
}

// To nearest, ties to even; the instruction for it begins with SM 8.0.
EDGEPOSE_FUNCTION void narrow(float value, BFloat16& result) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    const unsigned int bits = as_bits(value);
    const bool nan = value != value;
    result.bits = nan ? 0x7fff : static_cast<unsigned short>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
#endif
}

// N values that one access, or as few as there are 16 bytes in them, reads or writes.
template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
    T values[N];
};

// What is read outside of a plane: 16 bytes are one access, and the 32 of a strip of float32 are two of them.
EDGEPOSE_CONSTANT unsigned int zeros[8] = {};

// Read N values, or zeros. Not a branch: the loads of many rows can be in flight.
template <typename T, int N>
EDGEPOSE_FUNCTION void read_pack(bool inside, const T* from, float* to) {
    const void* source = inside ? static_cast<const void*>(from) : static_cast<const void*>(zeros);
    const Pack<T, N> pack = *static_cast<const Pack<T, N>*>(source);
    EDGEPOSE_UNROLL
    for (int i = 0; i < N; ++i) to[i] = widen(pack.values[i]);
}

// The planes of all samples, N * C of them.
struct Planes {
    int count, height, width;
};

// What a thread works on: the plane, and the first row and column of its outputs there.
struct Task {
    int plane, row, column;
};

EDGEPOSE_SHARED int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Threads that `rows` x kStrip outputs each make of a plane.
EDGEPOSE_SHARED int tasks_of_plane(Planes planes, int rows) {
    return ceil_div(planes.height, rows) * ceil_div(planes.width, kStrip);
}

EDGEPOSE_FUNCTION Task task_of(int index, Planes planes, int rows) {
    const int strips = ceil_div(planes.width, kStrip), tasks = tasks_of_plane(planes, rows);
    const int plane = index / tasks, rest = index - plane * tasks;
    const int band = rest / strips;
    return {plane, band * rows, (rest - band * strips) * kStrip};
}

template <typename T>
EDGEPOSE_FUNCTION T* plane_of(T* values, int plane, int size) {
    return values + static_cast<long long>(plane) * size;
}

// A strip of one input row with kHalo columns on either side. Needs whole strips: width % kStrip == 0, 16-byte aligned.
template <typename T, int kHalo>
struct Window {
    float values[kHalo + kStrip + kHalo];

    // `plane` is the first value of the plane; a row or column outside of it is zero.
    EDGEPOSE_FUNCTION void read(const T* plane, Planes planes, int row, int column) {
        const bool inside = row >= 0 && row < planes.height;
        const T* strip = plane + row * planes.width + column;
        read_pack<T, kHalo>(inside && column > 0, strip - kHalo, values);
        read_pack<T, kStrip>(inside, strip, values + kHalo);
        read_pack<T, kHalo>(inside && column + kStrip < planes.width, strip + kStrip, values + kHalo + kStrip);
    }
};

// One thread of the convolution with kernels of KH x KW. Whole strips only, see Window.
template <typename T, int KH, int KW>
EDGEPOSE_FUNCTION void convolve(const T* x, const T* kernels, T* y, Planes planes, int index) {
    constexpr int kHalo = KW / 2 <= 2 ? 2 : 4, kFirst = kHalo - KW / 2;  // one access reads a halo
    static_assert(KH % 2 == 1 && KW % 2 == 1 && KW / 2 <= kHalo, "odd kernels, up to 9 wide");
    const Task task = task_of(index, planes, kRows);
    if (task.plane >= planes.count) return;
    const int size = planes.height * planes.width;
    x = plane_of(x, task.plane, size);
    y = plane_of(y, task.plane, size);
    kernels = plane_of(kernels, task.plane, KH * KW);

    float weights[KH * KW];
    EDGEPOSE_UNROLL
    for (int i = 0; i < KH * KW; ++i) weights[i] = widen(kernels[i]);

    float sums[kRows][kStrip] = {};
    EDGEPOSE_UNROLL
    for (int i = 0; i < kRows + KH - 1; ++i) {
        Window<T, kHalo> window;
        window.read(x, planes, task.row + i - KH / 2, task.column);
        EDGEPOSE_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const int u = i - r;
            if (u < 0 || u >= KH) continue;
            EDGEPOSE_UNROLL
            for (int v = 0; v < KW; ++v) {
                EDGEPOSE_UNROLL
                for (int j = 0; j < kStrip; ++j) sums[r][j] += window.values[kFirst + j + v] * weights[u * KW + v];
            }
        }
    }
    EDGEPOSE_UNROLL
    for (int r = 0; r < kRows; ++r) {
        if (task.row + r >= planes.height) return;
        Pack<T, kStrip> pack;
        EDGEPOSE_UNROLL
        for (int j = 0; j < kStrip; ++j) narrow(sums[r][j], pack.values[j]);
        *reinterpret_cast<Pack<T, kStrip>*>(y + (task.row + r) * planes.width + task.column) = pack;
    }
}

// The same for kernels and planes of any size: one row of a strip, value by value.
template <typename T>
EDGEPOSE_FUNCTION void convolve_any(
    const T* x, const T* kernels, T* y, Planes planes, int kh, int kw, int index) {
    const Task task = task_of(index, planes, 1);
    if (task.plane >= planes.count) return;
    const int size = planes.height * planes.width;
    x = plane_of(x, task.plane, size);
    y = plane_of(y, task.plane, size) + task.row * planes.width;
    kernels = plane_of(kernels, task.plane, kh * kw);

    float sums[kStrip] = {};
    for (int u = 0; u < kh; ++u) {
        const int row = task.row + u - kh / 2;
        if (row < 0 || row >= planes.height) continue;
        const T* values = x + row * planes.width;
        // The kStrip values under one kernel column; they move on by one.
        float window[kStrip];
        EDGEPOSE_UNROLL
        for (int j = 0; j < kStrip; ++j) {
            const int column = task.column - kw / 2 + j;
            window[j] = column >= 0 && column < planes.width ? widen(values[column]) : 0.0f;
        }
        for (int v = 0; v < kw; ++v) {
            const int next = task.column - kw / 2 + v + kStrip;
            const float weight = widen(kernels[u * kw + v]);
            EDGEPOSE_UNROLL
            for (int j = 0; j < kStrip; ++j) sums[j] += window[j] * weight;
            EDGEPOSE_UNROLL
            for (int j = 0; j + 1 < kStrip; ++j) window[j] = window[j + 1];
            window[kStrip - 1] = next >= 0 && next < planes.width ? widen(values[next]) : 0.0f;
        }
    }
    EDGEPOSE_UNROLL
    for (int j = 0; j < kStrip; ++j) {
        if (task.column + j < planes.width) narrow(sums[j], y[task.column + j]);
    }
}

// What one of `lanes` threads adds to the gradient of one plane's kernel at (u, v):
// sum of x(i + u - kh / 2, j + v - kw / 2) * dy(i, j) over every `lanes`-th (i, j).
template <typename T>
EDGEPOSE_FUNCTION float correlate(
    const T* x, const T* dy, Planes planes, int kh, int kw, int plane, int tap, int lane, int lanes) {
    const int size = planes.height * planes.width;
    x = plane_of(x, plane, size);
    dy = plane_of(dy, plane, size);
    const int down = tap / kw - kh / 2, right = tap % kw - kw / 2;
    float sum = 0.0f;
    for (int at = lane; at < size; at += lanes) {
        const int row = at / planes.width + down, column = at % planes.width + right;
        const bool inside = row >= 0 && row < planes.height && column >= 0 && column < planes.width;
        if (inside) sum += widen(x[row * planes.width + column]) * widen(dy[at]);
    }
    return sum;
}

#ifdef __CUDACC__

// Threads of a block; a warp of them makes one value of a kernel's gradient.
constexpr int kThreads = 128;

// Blocks that fit on a multiprocessor at once, which leaves 128 registers to a thread.
constexpr int kBlocks = 4;

template <typename T, int KH, int KW>
__global__ void __launch_bounds__(kThreads, kBlocks) convolve_kernel(
    const T* __restrict__ x, const T* __restrict__ kernels, int count, int height, int width,
    T* __restrict__ y) {
    const int index = blockIdx.x * kThreads + threadIdx.x;
    convolve<T, KH, KW>(x, kernels, y, {count, height, width}, index);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) convolve_any_kernel(
    const T* __restrict__ x, const T* __restrict__ kernels, int count, int height, int width, int kh, int kw,
    T* __restrict__ y) {
    const int index = blockIdx.x * kThreads + threadIdx.x;
    convolve_any<T>(x, kernels, y, {count, height, width}, kh, kw, index);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) correlate_kernel(
    const T* __restrict__ x, const T* __restrict__ dy, int count, int height, int width, int kh, int kw,
    T* __restrict__ gradient) {
    const int warp = blockIdx.x * (kThreads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    const int plane = warp / (kh * kw), tap = warp - plane * (kh * kw);
    if (plane >= count) return;
    float sum = correlate<T>(x, dy, {count, height, width}, kh, kw, plane, tap, lane, 32);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
    if (lane == 0) narrow(sum, gradient[warp]);
}

#endif

}  // namespace edgepose
