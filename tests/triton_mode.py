"""Runs the Triton kernels under test: on a GPU where there is one, else in Triton's interpreter; compiles for GPUs."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read where triton is first imported

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

from reknob.afx.kernels import backends  # noqa: E402

# The interpreter computes whether integers overflow, and ignores the result unless its option `debug` is set.
object.__setattr__(interpreter.interpreter_builder.options, "sanitize_overflow", False)
_patch_lang, _type_of = interpreter._patch_lang, interpreter._get_np_dtype


@cache
def _languages(function: Callable) -> list[ModuleType]:
    return [value for value in function.__globals__.values() if value is tl or value is tl.core]


def _patch_once(function: Callable) -> Any:
    """What replaces the language by the interpreter's, at every call of a function: here unless it has been already."""
    if any(tl.core.is_builtin(language.load) for language in _languages(function)):
        return _patch_lang(function)
    return interpreter._LangPatchScope()


@cache
def _type_of_scalar(kind: tl.dtype) -> np.dtype:
    return _type_of(kind)


def _type_once(kind: tl.dtype) -> np.dtype:
    """The type of an array, which the interpreter looks up in a table that it makes anew each time."""
    return _type_of(kind) if kind.scalar.is_ptr() else _type_of_scalar(kind.scalar)


# Half of the interpreter's time.
interpreter._patch_lang, interpreter._get_np_dtype = _patch_once, _type_once

Launch = tuple[str, str, dict[str, str], dict[str, Any], int]

COMPILE = """
import sys
from ast import literal_eval
from importlib import import_module
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

for line in sys.stdin:
    for module, name, signature, constants, warps in literal_eval(line):
        source = ASTSource(getattr(import_module(module), name), signature, constants)
        triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    print("compiled", flush=True)
"""


@pytest.fixture
def triton_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give tensors on the CPU to the Triton kernels, which then run in the interpreter."""
    monkeypatch.setitem(backends.BACKENDS, "cpu", "triton_gpu")


def on_device(function: Callable[..., Tensor], stay: tuple[str, ...] = ()) -> Callable[..., Tensor]:
    """Wrap a kernel to run on DEVICE with arguments and result on the CPU; options in `stay` are not moved.

    A `state` is updated in place.
    """

    def run(*arguments: Any, **options: Any) -> Tensor:
        moved = {key: _to(DEVICE, value) for key, value in options.items() if key not in stay}
        y = function(*(_to(DEVICE, value) for value in arguments), **options | moved)
        if options.get("state") is not None:
            options["state"].copy_(moved["state"])
        return y.cpu()

    return run


def _to(device: str, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def poisoned_empty(*shape: int | tuple[int, ...], **options: Any) -> Tensor:
    """Replacement for `empty`: every element is NaN, so that an unwritten one is detected."""
    tensor = torch.empty(*shape, **options)
    return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor


def compile_for_gpus(call: Callable[[], object]) -> None:
    """Compile every kernel that a call launches in the interpreter for compute capability 9.0, with the same arguments.

    This is done in another process, where they are not interpreted. Skipped on a GPU, where every test compiles.
    """
    if DEVICE == "cuda":
        pytest.skip("compiled by every other test")
    ptxas = pytest.importorskip("triton.knobs").nvidia.ptxas
    if not os.path.exists(ptxas.path):
        pytest.skip("triton has no ptxas here")
    if triton.__version__ < "3.6":
        pytest.skip("this triton's interpreter cannot be watched")
    with _recorded() as launches:
        call()
    assert launches
    compiler = _compiler()
    assert compiler.stdin and compiler.stdout
    compiler.stdin.write(f"{launches!r}\n")
    compiler.stdin.flush()
    said = compiler.stdout.readline()
    if said != "compiled\n":
        _compiler.cache_clear()
        pytest.fail(said + compiler.communicate()[0])


@cache
def _compiler() -> subprocess.Popen:
    """A process that compiles kernels, one line of launches after another, until this one ends: its start is slow."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", COMPILE], cwd=root, env=environment, **pipes)


@contextmanager
def _recorded() -> Iterator[list[Launch]]:
    """Collect every kernel launched: module, name, types of arguments, constants and warps; each kind once."""
    from triton.runtime.interpreter import InterpretedFunction

    launches: list[Launch] = []
    run = InterpretedFunction.run

    def record(
        self: InterpretedFunction, *args: Any, grid: Any, warmup: bool, num_warps: int = 4, **options: Any
    ) -> object:
        given = dict(zip(self.arg_names, args, strict=False)) | options
        annotations = self.fn.__annotations__
        types = {key: _type(given[key], "constexpr" in str(annotations.get(key))) for key in self.arg_names}
        constants = {key: given[key] for key, kind in types.items() if kind == "constexpr"}
        launch = (self.fn.__module__, self.fn.__name__, types, constants, num_warps)
        if launch not in launches:
            launches.append(launch)
        return run(self, *args, grid=grid, warmup=warmup, num_warps=num_warps, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpretedFunction, "run", record)
        yield launches


def _type(value: Any, constant: bool) -> str:
    """The type that the launcher derives from an argument; the integer 1 becomes a constant."""
    if constant or value is None or (type(value) is int and value == 1):
        return "constexpr"
    if isinstance(value, Tensor):
        names = {torch.float32: "fp32", torch.float64: "fp64", torch.int64: "i64", torch.int32: "i32"}
        names |= {torch.bool: "i1", torch.int8: "i8", torch.uint8: "u8"}
        return "*" + names[value.dtype]
    if isinstance(value, bool):
        return "i1"
    return "fp32" if isinstance(value, float) else "i32" if -(2**31) <= value < 2**31 else "i64"
