"""What autograd gives to both halves of a function, with its types, which torch declares in its C++ part only."""

from torch import Tensor
from torch.autograd.function import FunctionCtx


class Context(FunctionCtx):
    """The context of a call; a function that keeps more than tensors names it in a subclass. For annotations only."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
