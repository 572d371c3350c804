// edgepose::DynamicDepthwiseConv2d as a TensorRT plugin (IPluginV3, TensorRT 10.0 and later).
//
// Inputs x (N, C, H, W) and kernels (N, C, kh, kw), output y like x; float32, float16 or bfloat16, all of one type; any
// of N, C, H, W may be dynamic. There are no attributes: the sides of the kernels are those of the second input.
#include <NvInferRuntime.h>

#include <cstdio>
#include <mutex>
#include <new>
#include <optional>
#include <string>

#include "dynamic_conv.h"

namespace edgepose {
namespace {

using namespace nvinfer1;

constexpr char kName[] = "DynamicDepthwiseConv2d";
constexpr char kVersion[] = "1";
constexpr char kNamespace[] = "edgepose";

std::mutex finder_mutex;
ILoggerFinder* finder = nullptr;

// TensorRT takes no exceptions and no reasons: those go to its log, or to stderr while nobody has given it a logger.
void log_error(const std::string& sentence) {
    const std::string line = "edgepose::DynamicDepthwiseConv2d: " + sentence;
    const std::lock_guard<std::mutex> lock(finder_mutex);
    ILogger* logger = finder == nullptr ? nullptr : finder->findLogger();
    if (logger != nullptr) {
        logger->log(ILogger::Severity::kERROR, line.c_str());
    } else {
        std::fprintf(stderr, "%s\n", line.c_str());
    }
}

std::optional<edgepose::DType> dtype_of(DataType type) {
    switch (type) {
        case DataType::kFLOAT: return edgepose::DType::kFloat32;
        case DataType::kHALF: return edgepose::DType::kFloat16;
        case DataType::kBF16: return edgepose::DType::kBFloat16;
        default: return std::nullopt;
    }
}

std::string text_of(const Dims& dims) {
    std::string text = "(";
    for (int i = 0; i < dims.nbDims; ++i) text += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
    return text + ")";
}

// Whether a kernel side can be run: odd and small enough; -1 is not known yet.
bool is_side(int64_t side) { return side == -1 || (side % 2 == 1 && side >= 1 && side <= kLargestKernel); }

bool same(int64_t a, int64_t b) { return a == -1 || b == -1 || a == b; }

// What is wrong with the shapes of the inputs, -1 where a side is dynamic; empty if nothing is.
std::string complaint(const Dims& x, const Dims& kernels) {
    const bool fits = x.nbDims == 4 && kernels.nbDims == 4 && same(x.d[0], kernels.d[0]) && same(x.d[1], kernels.d[1]) &&
                      is_side(kernels.d[2]) && is_side(kernels.d[3]);
    if (fits) return "";
    return "x " + text_of(x) + " needs kernels (N, C, kh, kw) with the same N and C, kh and kw odd and at most " +
           std::to_string(kLargestKernel) + "; got " + text_of(kernels);
}

class Plugin final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime {
public:
    IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
        switch (type) {
            case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
            case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
            case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    IPluginV3* clone() noexcept override { return new (std::nothrow) Plugin(*this); }

    const char* getPluginName() const noexcept override { return kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    int32_t getNbOutputs() const noexcept override { return 1; }

    int32_t configurePlugin(
        const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc*, int32_t) noexcept override {
        return check(inputs == 2 ? complaint(in[0].desc.dims, in[1].desc.dims) : "expected 2 inputs");
    }

    int32_t getOutputDataTypes(DataType* out, int32_t, const DataType* in, int32_t) const noexcept override {
        out[0] = in[0];
        return 0;
    }

    int32_t getOutputShapes(
        const DimsExprs* in, int32_t inputs, const DimsExprs*, int32_t, DimsExprs* out, int32_t,
        IExprBuilder&) noexcept override {
        if (inputs != 2 || in[0].nbDims != 4) return check("expected 2 inputs, x of 4 dimensions");
        out[0] = in[0];
        return 0;
    }

    bool supportsFormatCombination(
        int32_t position, const DynamicPluginTensorDesc* in_out, int32_t, int32_t) noexcept override {
        const PluginTensorDesc& tensor = in_out[position].desc;
        return tensor.format == TensorFormat::kLINEAR && tensor.type == in_out[0].desc.type && dtype_of(tensor.type);
    }

    // Of this name, so that TensorRT times the plugin once for each shape and type.
    const char* getTimingCacheID() noexcept override { return "edgepose-dynamic-depthwise-conv2d-1"; }

    int32_t onShapeChange(
        const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc*, int32_t) noexcept override {
        return check(inputs == 2 ? complaint(in[0].dims, in[1].dims) : "expected 2 inputs");
    }

    int32_t enqueue(
        const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs, void* const* outputs, void*,
        cudaStream_t stream) noexcept override {
        const auto dtype = dtype_of(in[0].type);
        if (!dtype) return check("expected float32, float16 or bfloat16");
        const auto &x = in[0].dims.d, &kernels = in[1].dims.d;
        const Status status = dynamic_conv2d(
            *dtype, inputs[0], inputs[1], outputs[0], int(x[0]), int(x[1]), int(x[2]), int(x[3]), int(kernels[2]),
            int(kernels[3]), stream);
        return check(status == Status::kOk ? "" : describe(status));
    }

    IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }

    // Nothing to keep: an engine names the plugin, and that is all of it.
    const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &fields_; }

private:
    static int32_t check(const std::string& complaint) {
        if (!complaint.empty()) log_error(complaint);
        return complaint.empty() ? 0 : -1;
    }

    PluginFieldCollection fields_{0, nullptr};
};

class Creator final : public IPluginCreatorV3One {
public:
    const char* getPluginName() const noexcept override { return kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }
    const PluginFieldCollection* getFieldNames() noexcept override { return &fields_; }

    IPluginV3* createPlugin(const char*, const PluginFieldCollection* fields, TensorRTPhase) noexcept override {
        if (fields != nullptr && fields->nbFields > 0) {
            const char* name = fields->fields[0].name;
            log_error("got the attribute " + std::string(name == nullptr ? "" : name) + ", but it takes none");
            return nullptr;
        }
        return new (std::nothrow) Plugin;
    }

private:
    PluginFieldCollection fields_{0, nullptr};
};

}  // namespace
}  // namespace edgepose

#define EDGEPOSE_EXPORT extern "C" __attribute__((visibility("default")))

// What TensorRT's registry looks for in a plugin library.
EDGEPOSE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static edgepose::Creator creator;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
    count = 1;
    return creators;
}

EDGEPOSE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    const std::lock_guard<std::mutex> lock(edgepose::finder_mutex);
    edgepose::finder = finder;
}

// What the library was built for, as JSON: Python reads it before TensorRT gets the library.
EDGEPOSE_EXPORT const char* edgeposeBuildInfo() {
    static const std::string info = "{\"tensorrt\": [" + std::to_string(NV_TENSORRT_MAJOR) + ", " +
                                    std::to_string(NV_TENSORRT_MINOR) + "], \"architectures\": [" +
                                    edgepose::architectures() + "]}";
    return info.c_str();
}
