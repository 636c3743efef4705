"""The context of an autograd function with its attributes typed: torch's own class declares none of them."""

from torch import Tensor
from torch.autograd.function import FunctionCtx


class Context(FunctionCtx):
    """For annotations only; a subclass declares what a function stores besides tensors."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
