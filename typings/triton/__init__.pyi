"""The part of Triton that the kernels use, for the type checker: Triton has no stubs, and its own hints mislead.

They say that `static_range` never returns, that a kernel is launched with blocks instead of arrays, and that its tuples
are not Python's. Arguments of kernels are not checked: one is an array at the launch and a pointer inside.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from . import language as language

R = TypeVar("R")

class JITFunction(Generic[R]):
    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> R: ...

def jit(fn: Callable[..., R]) -> JITFunction[R]: ...
def cdiv(x: int, y: int) -> int: ...
def next_power_of_2(n: int) -> int: ...
