"""One call that makes TensorRT know the plugin, in the form that its version takes; and who wins without it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..core.errors import UsageError
from ..core.machine import version_numbers
from ..nvidia.compile import compile_kernel
from ..nvidia.device import sm_number
from . import launch
from .library import BUILD, PluginLibrary, find_library, load_library
from .python_plugin import creator_class, define_ahead_of_time
from .spec import DOMAIN, OP_TYPE, QUALIFIED_NAME, VERSION

#: First versions with class-based Python plugins and with ahead-of-time ones.
CLASS_BASED, AHEAD_OF_TIME = (10, 0), (10, 9)
#: The forms: a compiled library, PTX in the engine, a Python class.
LIBRARY, PTX, PYTHON = "library", "ahead of time", "Python class"


@dataclass(frozen=True)
class Registered:
    """The plugin, as TensorRT has it.

    Attributes:
        form: :data:`LIBRARY`, :data:`PTX` or :data:`PYTHON`.
        sha256: of the library, or of the kernel source that NVRTC compiled.
    """

    form: str
    sha256: str

    def __str__(self) -> str:
        return f"{QUALIFIED_NAME} version {VERSION}, namespace {DOMAIN} ({self.form})"

    @property
    def needed_at_run_time(self) -> bool:
        """Whether an engine that was built with it has to find it again; PTX is in the engine."""
        return self.form != PTX


_registered: dict[str, Registered] = {}


def register(trt: Any, sm: str) -> Registered:
    """Register the plugin once: the built library if there is one, else the same kernel through NVRTC.

    Args:
        trt: the module ``tensorrt``, 10.0 or later.
        sm: of the GPU, such as ``sm87``.

    Raises:
        UsageError: the library does not fit, TensorRT is too old, or refuses the plugin.
    """
    if trt.__name__ not in _registered:
        _registered[trt.__name__] = _register(trt, sm)
    return _registered[trt.__name__]


def form_for(version: str, library: PluginLibrary | None) -> str:
    """The form that :func:`register` gives a TensorRT: :data:`LIBRARY`, :data:`PTX` or :data:`PYTHON`.

    Args:
        version: of TensorRT, such as ``10.13.2``.
        library: the built one, or None.

    Raises:
        UsageError: this TensorRT is too old for any.

    >>> form_for("10.3.0", None), form_for("10.13.2", None)
    ('Python class', 'ahead of time')
    """
    number = version_numbers(version, 2)
    if number < CLASS_BASED:
        raise UsageError(f"TensorRT {version} is too old for the plugin: expected 10.0 or later")
    if library is not None:
        return LIBRARY
    return PTX if number >= AHEAD_OF_TIME else PYTHON


def is_registered(trt: Any) -> bool:
    """Whether TensorRT's registry has the plugin, in whatever form."""
    return trt.get_plugin_registry().get_creator(OP_TYPE, str(VERSION), DOMAIN) is not None


def plugin_wins(version: str, *, registered: bool, marked: bool) -> bool:
    """Whether TensorRT's ONNX parser takes a plugin for a node whose function body is in the graph, too.

    Up to 10.6 the function always wins; up to 10.14 the plugin does if it is registered; from 10.15 on only if the node
    is marked as well.

    Args:
        version: of TensorRT, such as ``10.13.2``.
        registered: the registry has the plugin.
        marked: the node has the attribute ``plugin_namespace``.

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
        return Registered(form, library.sha256)
    smallest = launch.forward(1, 1, 1, (1, 1), "float32")
    compile_kernel(smallest.source, smallest.kernel, f"compute_{sm_number(sm)}")  # or say now why it cannot
    if form == PTX:
        define_ahead_of_time(trt, import_module(f"{trt.__name__}.plugin"), sm_number(sm))
    elif not trt.get_plugin_registry().register_creator(creator_class(trt)(), DOMAIN) or not is_registered(trt):
        raise UsageError(f"TensorRT {trt.__version__} refused the plugin's Python form; {BUILD}")
    return Registered(form, hashlib.sha256(launch.SOURCE.read_bytes()).hexdigest())
