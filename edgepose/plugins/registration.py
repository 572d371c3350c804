"""Register the plugin with TensorRT, in the form that its version supports."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..core.errors import UsageError
from ..core.files import sha256
from ..core.machine import version_numbers
from ..nvidia.compile import compile_kernel
from ..nvidia.device import sm_number
from . import launch
from .library import BUILD, PluginLibrary, find_library, is_registered, load_library
from .python_plugin import creator_class, define_ahead_of_time
from .spec import DOMAIN, QUALIFIED_NAME, VERSION

#: First TensorRT versions with class-based and with ahead-of-time Python plugins.
CLASS_BASED, AHEAD_OF_TIME = (10, 0), (10, 9)
#: Forms of the plugin: a compiled library, PTX in the engine, a Python class.
LIBRARY, PTX, PYTHON = "library", "ahead of time", "Python class"


@dataclass(frozen=True)
class Registered:
    """The plugin that was registered.

    Attributes:
        form: :data:`LIBRARY`, :data:`PTX` or :data:`PYTHON`.
        sha256: hash of the library, or of the kernels' source that NVRTC compiles.
    """

    form: str
    sha256: str

    def __str__(self) -> str:
        return f"{QUALIFIED_NAME} version {VERSION}, namespace {DOMAIN} ({self.form})"

    @property
    def needed_at_run_time(self) -> bool:
        """Whether an engine needs the plugin registered when it is loaded; PTX is stored in the engine."""
        return self.form != PTX


_registered: dict[str, Registered] = {}


def register(trt: Any, sm: str) -> Registered:
    """Register the built library or, if there is none, a Python plugin; later calls return the first one's result.

    Args:
        trt: the module ``tensorrt``, 10.0 or later.
        sm: the GPU's SM, such as ``sm87``.

    Raises:
        UsageError: the library does not fit, the kernel cannot be compiled, or TensorRT is too old or refuses it.
    """
    if trt.__name__ not in _registered:
        _registered[trt.__name__] = _register(trt, sm)
    return _registered[trt.__name__]


def form_for(version: str, library: PluginLibrary | None) -> str:
    """Return the form that :func:`register` chooses for a version of TensorRT and the built library, if there is one.

    Raises:
        UsageError: TensorRT is older than 10.0.

    >>> form_for("10.3.0", None), form_for("10.13.2", None)
    ('Python class', 'ahead of time')
    """
    number = version_numbers(version, 2)
    if number < CLASS_BASED:
        raise UsageError(f"TensorRT {version} is too old for the plugin: expected 10.0 or later")
    if library is not None:
        return LIBRARY
    return PTX if number >= AHEAD_OF_TIME else PYTHON


def plugin_wins(version: str, *, registered: bool, marked: bool) -> bool:
    """Return whether TensorRT's ONNX parser uses the plugin for a node whose function body is also in the graph.

    Up to 10.6 it uses the body; from 10.7 on the plugin, if it is registered; from 10.15 on only if the node is also
    marked: if it has the attribute ``plugin_namespace``.

    >>> [plugin_wins(version, registered=True, marked=False) for version in ("10.3.0", "10.7.0", "10.15.0", "11.1.0")]
    [False, True, False, False]
    """
    number = version_numbers(version, 2)
    return registered and number >= (10, 7) and (number < (10, 15) or marked)


def _register(trt: Any, sm: str) -> Registered:
    library = find_library()
    form = form_for(trt.__version__, library)
    if library is not None:
        load_library(trt, library, sm)
        return Registered(form, sha256(library.path))
    smallest = launch.forward(1, 1, 1, (1, 1), "float32")
    compile_kernel(smallest.source, smallest.kernel, f"compute_{sm_number(sm)}")  # fails early if it cannot be compiled
    if form == PTX:
        define_ahead_of_time(trt, import_module(f"{trt.__name__}.plugin"), sm_number(sm))
    elif not trt.get_plugin_registry().register_creator(creator_class(trt)(), DOMAIN) or not is_registered(trt):
        raise UsageError(f"TensorRT {trt.__version__} refused the plugin's Python form: {BUILD}")
    return Registered(form, sha256(launch.SOURCE))
