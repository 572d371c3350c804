#include "dynamic_conv.h"

#include <climits>
#include <cstdint>

#include "dynamic_conv.cuh"

namespace edgepose {
namespace {

bool is_kernel_side(int side) { return side >= 1 && side <= kLargestKernel && side % 2 == 1; }

// Whether the specialised kernels can take the planes: they read and write 16 bytes at a time.
bool has_whole_strips(const void* x, const void* y, int width) {
    const auto addresses = reinterpret_cast<std::uintptr_t>(x) | reinterpret_cast<std::uintptr_t>(y);
    return width % kStrip == 0 && addresses % 16 == 0;
}

template <typename T>
struct Launch {
    const T* x;
    const T* kernels;
    T* y;
    Planes planes;
    int kh, kw;
    cudaStream_t stream;

    Status run() const {
        if (!has_whole_strips(x, y, planes.width)) return any();
        if (kh == 7 && kw == 7) return specialised<7, 7>();
        if (kh == 7 && kw == 5) return specialised<7, 5>();
        if (kh == 5 && kw == 5) return specialised<5, 5>();
        return any();
    }

    template <int KH, int KW>
    Status specialised() const {
        return enqueue(convolve_kernel<T, KH, KW>, kRows, x, kernels, planes.count, planes.height, planes.width, y);
    }

    Status any() const {
        return enqueue(convolve_any_kernel<T>, 1, x, kernels, planes.count, planes.height, planes.width, kh, kw, y);
    }

    // Threads that make `rows` x kStrip outputs each.
    template <typename... Arguments>
    Status enqueue(void (*kernel)(Arguments...), int rows, Arguments... arguments) const {
        const long long threads = 1LL * planes.count * tasks_of_plane(planes, rows);
        if (threads > INT_MAX - kThreads) return Status::kBadShape;
        const auto blocks = static_cast<unsigned int>((threads + kThreads - 1) / kThreads);
        void* pointers[] = {&arguments...};
        const cudaError_t error = cudaLaunchKernel(kernel, blocks, kThreads, pointers, 0, stream);
        if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) return Status::kNoCode;
        return error == cudaSuccess ? Status::kOk : Status::kCuda;
    }
};

template <typename T>
Status launch(const void* x, const void* kernels, void* y, Planes planes, int kh, int kw, cudaStream_t stream) {
    const auto *from = static_cast<const T*>(x), *with = static_cast<const T*>(kernels);
    return Launch<T>{from, with, static_cast<T*>(y), planes, kh, kw, stream}.run();
}

}  // namespace

Status dynamic_conv2d(
    DType dtype, const void* x, const void* kernels, void* y, int n, int c, int height, int width, int kh, int kw,
    cudaStream_t stream) {
    if (!is_kernel_side(kh) || !is_kernel_side(kw)) return Status::kBadKernel;
    if (n < 0 || c < 0 || height < 0 || width < 0) return Status::kBadShape;
    if (n == 0 || c == 0 || height == 0 || width == 0) return Status::kOk;
    // Offsets inside a plane are 32-bit, and so is the number of planes.
    if (1LL * n * c > INT_MAX || 1LL * height * width > INT_MAX) return Status::kBadShape;
    if (x == nullptr || kernels == nullptr || y == nullptr) return Status::kBadPointer;
    const Planes planes{n * c, height, width};
    switch (dtype) {
        case DType::kFloat32: return launch<float>(x, kernels, y, planes, kh, kw, stream);
        case DType::kFloat16: return launch<Half>(x, kernels, y, planes, kh, kw, stream);
        case DType::kBFloat16: return launch<BFloat16>(x, kernels, y, planes, kh, kw, stream);
    }
    return Status::kBadType;
}

#define EDGEPOSE_TEXT(...) #__VA_ARGS__
#define EDGEPOSE_EXPANDED(...) EDGEPOSE_TEXT(__VA_ARGS__)

// nvcc tells the host compiler, too, what it makes code for, such as 750,860.
const char* architectures() { return EDGEPOSE_EXPANDED(__CUDA_ARCH_LIST__); }

const char* describe(Status status) {
    switch (status) {
        case Status::kOk: return "done";
        case Status::kBadShape: return "x is too large for one launch, or has a negative side";
        case Status::kBadKernel: return "the sides of the kernels must be odd, from 1 to 11";
        case Status::kBadType: return "the type must be float32, float16 or bfloat16";
        case Status::kBadPointer: return "a tensor has no memory";
        case Status::kNoCode: return "this library holds no code for this GPU: build it with its architecture in the list";
        case Status::kCuda: return "the CUDA runtime refused the launch";
    }
    return "unknown status";
}

}  // namespace edgepose
