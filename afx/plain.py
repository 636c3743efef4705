"""Plain numbers as values of an effect: made tensors once, where the outermost effect is called."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reknob.runtime.errors import UsageError

# Not at run time: effect.py imports this module.
if TYPE_CHECKING:
    from .effect import Effect, Values


def are_tensors(values: Mapping[str, Any]) -> bool:
    """Whether all values are tensors already, also those of the parts: some microseconds for a chain of 60."""
    for value in values.values():
        if not isinstance(value, Tensor) and not (isinstance(value, dict) and are_tensors(value)):
            return False
    return True


def to_tensors(effect: "Effect", values: Mapping[str, Any], like: Tensor, place: str = "") -> "Values":
    """Values as `effect` takes them, from numbers, lists and arrays of the declared shapes, or one more dimension for
    the items of a batch.

    Args:
        values: by name, in the declared units; those of parts as nested dicts. Tensors stay as they are.
        like: has the dtype and the device of the result.
        place: where the values stand, for messages: "sends.delay.".

    Raises UsageError for a name that the effect does not have, a value that is missing, has another shape or lies
    outside its range, and what is no number.
    """
    declared, parts = {p.name: p for p in effect.params}, dict(effect.parts())
    # A parameter that presets do not store may be missing from values made of one.
    missing = [name for name in (*declared, *parts) if name not in values and (name in parts or declared[name].preset)]
    unknown = [name for name in values if name not in declared and name not in parts]
    if missing or unknown:
        # The unknown name first: a misspelt one is unknown and missing, and the spelling is the mistake.
        problem = f"{place}{unknown[0]} is unknown" if unknown else f"{place}{missing[0]} is missing"
        raise UsageError(f"values: {problem}; {type(effect).__name__} has: {', '.join((*declared, *parts)) or 'none'}")
    tensors: Values = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif name in parts:
            if not isinstance(value, Mapping):
                raise UsageError(f"values: {place}{name}={str(value)[:80]}: give its values by name, in a dict")
            tensors[name] = to_tensors(parts[name], value, like, f"{place}{name}.")
        else:
            tensors[name] = checked = _tensor(value, declared[name].shape, like, place + name)
            declared[name].check(checked, place + name)
    # Presets do not hold these, so that a user has none to give.
    for name, p in declared.items():
        if name not in values:
            tensors[name] = p.mapping.value(p.initial_raw()).to(like)
    return tensors


def _tensor(value: object, shape: tuple[int, ...], like: Tensor, name: str) -> Tensor:
    """A value of a declared shape, or one for each item."""
    try:
        tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"values: {name}={str(value)[:80]}: expected numbers") from error
    per_item = tuple(tensor.shape[1:]) == shape and tensor.dim() == len(shape) + 1
    if tuple(tensor.shape) != shape and not (per_item and len(tensor) == len(like)):
        wanted = f"{shape or 'one number'}, or {(len(like), *shape)} for the items"
        raise UsageError(f"values: {name} has the shape {tuple(tensor.shape)}; expected {wanted}")
    return tensor
