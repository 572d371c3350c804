"""The errors that edgepose raises, and the table of extras that install optional modules."""

#: How to install TensorRT, which no extra can do for every machine.
JETPACK_OR_PIP = (
    "pip install tensorrt; on Jetson it is part of JetPack (sudo apt-get install tensorrt python3-libnvinfer), for "
    "venvs made with --system-site-packages"
)

#: The smallest extra that installs each module; "" for the modules of ``pip install edgepose`` itself. Only ``train``
#: and ``export`` install PyTorch.
EXTRAS = {
    "numpy": "",
    "cv2": "",
    "onnxruntime": "",
    "google": "onnx",
    "matplotlib": "onnx",
    "ml_dtypes": "onnx",
    "onnx": "onnx",
    "onnxsim": "onnx",
    "pycocotools": "onnx",
    "scipy": "onnx",
    "skimage": "onnx",
    "tqdm": "onnx",
    "openvino": "openvino",
    "cuda": "tensorrt",
    "tensorrt_rtx": "rtx",
    "safetensors": "train",
    "tensorboard": "train",
    "torch": "train",
    "onnxscript": "export",
}


class EdgeposeError(Exception):
    """The base class of the errors that edgepose raises on purpose; the command line gives each its exit code."""


class UsageError(EdgeposeError):
    """Wrong usage or input (exit code 2), in one sentence: what was got, what was expected, how to fix it."""


class CheckError(EdgeposeError):
    """A check that was completed and failed (exit code 1), such as ``verify`` above its limits."""


def install_line(module: str, extra: str | None = None) -> str:
    """Return the command line that installs a module.

    Args:
        module: name of a module; only the part before the first dot counts. A module that is not in :data:`EXTRAS` is
            installed under its own name.
        extra: an extra to install instead of the table's, with all modules that a command needs.

    >>> install_line("onnx")
    "pip install 'edgepose[onnx]'"
    >>> install_line("torch", "export")
    "pip install 'edgepose[export]'"
    >>> install_line("onnxruntime")
    'pip install edgepose'
    """
    top = module.partition(".")[0]
    if top == "tensorrt":
        return JETPACK_OR_PIP
    extra = EXTRAS.get(top) if extra is None else extra
    if extra is None:
        return f"pip install {top}"
    return f"pip install 'edgepose[{extra}]'" if extra else "pip install edgepose"


def missing_extra(module: str, extra: str | None = None) -> UsageError:
    """Return the error for a module that is not installed, with its :func:`install_line`."""
    return UsageError(f"the Python module {module!r} is not installed: {install_line(module, extra)}")


def first_line(error: Exception) -> str:
    """Return the first line of an engine's error that is not empty, or else the name of its type."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def last_line(error: Exception) -> str:
    """Return the last line of an engine's error that is not empty (the cause in messages like stack traces), or its
    type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
