// The per-sample dynamic depthwise convolution on a GPU, for callers that have a stream.
#pragma once

#include <cuda_runtime_api.h>

namespace edgepose {

enum class DType { kFloat32, kFloat16, kBFloat16 };

enum class Status {
    kOk,
    kBadShape,    // a negative side, or more than 2^31 - 1 threads
    kBadKernel,   // an even side, or one above kLargestKernel
    kBadType,     // none of DType
    kBadPointer,  // null
    kNoCode,      // the library holds no code for this GPU
    kCuda,        // any other error of the CUDA runtime
};

constexpr int kLargestKernel = 11;

// y = x (*) kernels: x and y (N, C, H, W), kernels (N, C, kh, kw), kh and kw odd; stride 1, zero padding kh / 2 and
// kw / 2. All three contiguous, in the memory of the current device. Sums are taken in float32.
//
// Enqueues one kernel on `stream`, and nothing for an empty batch. Allocates nothing and waits for nothing, so it can be
// captured into a CUDA graph.
Status dynamic_conv2d(
    DType dtype, const void* x, const void* kernels, void* y, int n, int c, int height, int width, int kh, int kw,
    cudaStream_t stream);

// The compute capabilities that there is code for, ten times: such as "750,860".
const char* architectures();

// One sentence about a status.
const char* describe(Status status);

}  // namespace edgepose
