// What the launcher says to arguments that cannot be run: one line each, "name: sentence". None of them reaches a GPU.
#include <cstdio>

#include "dynamic_conv.h"

using namespace edgepose;

int main() {
    char memory[64];
    const auto say = [&](const char* name, DType dtype, const void* x, int n, int c, int h, int w, int kh, int kw) {
        std::printf("%s: %s\n", name, describe(dynamic_conv2d(dtype, x, memory, memory, n, c, h, w, kh, kw, nullptr)));
    };
    const DType half = DType::kFloat16;
    say("even", half, memory, 1, 1, 8, 8, 6, 5);
    say("large", half, memory, 1, 1, 8, 8, 7, 13);
    say("zero", half, memory, 1, 1, 8, 8, 0, 5);
    say("negative", half, memory, 1, 1, -8, 8, 7, 5);
    say("huge batch", half, memory, 65536, 65536, 8, 8, 7, 5);
    say("huge map", half, memory, 1, 1, 65536, 65536, 7, 5);
    say("huge grid", half, memory, 32768, 32768, 64, 48, 7, 5);
    say("null", half, nullptr, 1, 1, 8, 8, 7, 5);
    say("type", static_cast<DType>(9), memory, 1, 1, 8, 8, 7, 5);
    say("empty batch", half, nullptr, 0, 38, 64, 48, 7, 5);
    say("empty map", half, nullptr, 1, 38, 0, 48, 7, 5);
}
