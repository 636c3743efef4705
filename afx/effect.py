"""Effects, which declare parameters and hold none, and Knobs, which hold the raw parameters of an effect."""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reknob.runtime.errors import UsageError

from .curve import Curve
from .options import Bound
from .param import Bounded, Param
from .plain import are_tensors, to_tensors
from .stages import Stage

Values = dict[str, "Tensor | Values"]


class Effect(nn.Module):
    """An audio effect: declared parameters over a pure map from audio and values to audio.

    A subclass declares `params` and implements `forward(x, *, name=value, …)`: audio (B, C, T); values in the
    declared units and of the declared shape, or with a leading batch dimension (B, *shape), one per item.
    `for_items` makes such of values (G, *shape) that groups of consecutive items share. It is time-invariant, as chunks
    begin anywhere, and brings all else that programs need to know of it: `stage`, `label`, `curves`, `off_values`.

    Args:
        sr: sample rate in Hz.
        overrides: by parameter name, `default` or `range` of this instance, e.g. `freq=dict(range=[33, 5400])`.
    """

    params: ClassVar[tuple[Param, ...]] = ()
    #: What it is called in figures; None for the name of its class, "" for what is no effect of its own.
    label: ClassVar[str | None] = None
    #: "delay" or "reverb" for what users may want to leave out when they render; "" for all else.
    family: ClassVar[str] = ""
    #: The options of its form that runs sample by sample; empty where the usual form is the only one.
    realtime_options: ClassVar[dict[str, object]] = {}
    #: What may be chosen at construction, and within which bounds.
    options: ClassVar[dict[str, Bound]] = {}
    #: Whether any name at construction is that of an effect inside this one.
    holds_effects: ClassVar[bool] = False
    #: How many channels it takes, and how many it gives; None for as many as it takes.
    takes: ClassVar[tuple[int, ...]] = (1, 2)
    gives: ClassVar[int | None] = None

    def __init__(self, sr: int, **overrides: dict):
        super().__init__()
        unknown = sorted(overrides.keys() - {p.name for p in self.params})
        if unknown:
            known = ", ".join(p.name for p in self.params) or "none"
            raise UsageError(f"{type(self).__name__} has no parameter {', '.join(unknown)}; it has: {known}")
        self.sr = sr
        self.params = tuple(p.with_(**overrides.get(p.name, {})) for p in self.params)

    def __call__(self, x: Tensor, **values: Any) -> Tensor:  # noqa: ANN401 - numbers, lists and arrays of any kind
        """The output of audio x (B, C, T); values as of `forward`, or plain numbers and lists, nested in dicts."""
        if not are_tensors(values):
            values = to_tensors(self, values, x)
        return super().__call__(x, **values)

    def channels(self, given: int, place: str = "chain") -> int:
        """Channels of the output for so many of the input; UsageError, naming the place, where it takes no such."""
        if given not in self.takes:
            wanted = " or ".join("mono" if n == 1 else "stereo" for n in self.takes)
            raise UsageError(f"{place}: {type(self).__name__} takes {wanted}, but {given} channels come to it")
        return self.gives or given

    @property
    def grouped(self) -> bool:
        """Whether `forward` itself takes values (G, *shape) of G groups of B / G consecutive items."""
        return False

    def for_items(self, values: Values, items: int) -> Values:
        """Values, of all items or of groups, as `forward` takes them for so many items."""
        if self.grouped:
            return values
        shapes = {name: p.shape for name, p in self.walk()}
        return nest({name: repeat_for_items(value, shapes[name], items) for name, value in flatten(values).items()})

    def render_after_warm_up(self, x: Tensor, skip: int, **values: Values) -> Tensor:
        """The output from sample `skip` on, (B, C, T - skip); a warm-up that nobody hears can cost less."""
        return self(x, **values)[..., skip:]

    @property
    def runs_by_sample(self) -> bool:
        """Whether this is the form that runs sample by sample, which has no impulse response and no gradient."""
        return False

    def stage(self, values: Values) -> Stage:
        """A fresh stage that runs it block by block with one set of values, without a batch dimension."""
        raise TypeError(f"{type(self).__name__} cannot be streamed: implement `stage` by a function of afx.stages")

    def curves(self, values: Values) -> list[Curve]:
        """What it does with one set of values, as curves to draw; none where a curve would show nothing."""
        return []

    def off_values(self) -> dict[str, float | tuple[float, ...]]:
        """Values of its own parameters with which it passes its input or, beside a direct path, adds nothing.

        Empty where there are none: a chain then leaves the effect out instead.
        """
        return {}

    def off(self, values: Values) -> Values:
        """These values, switched off; UsageError where an effect cannot be switched off by values."""
        own = self.off_values()
        if own:
            return values | {k: torch.as_tensor(v).to(values[k]).expand_as(values[k]) for k, v in own.items()}
        parts = dict(self.parts())
        if not parts:
            raise UsageError(f"{type(self).__name__} has no values that switch it off: leave it out of the chain")
        return values | {name: part.off(values[name]) for name, part in parts.items()}

    def limit_loop_q(self, values: Values, most: float) -> Values:
        """These values, with the Q of filters in feedback loops at most `most`: a higher one may be unstable."""
        return values | {name: part.limit_loop_q(values[name], most) for name, part in self.parts()}

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, "Effect"]]:
        """The effects that figures show apart, behind the beginning of their parameters' names ("sends.delay.")."""
        yield prefix, self

    def parts(self) -> Iterator[tuple[str, "Effect"]]:
        """The effects inside this one, by name."""
        return ((name, module) for name, module in self.named_children() if isinstance(module, Effect))

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Param]]:
        """Every parameter of the effect and its parts, in declared order: ("delay.eq.freq", Param), …"""
        for p in self.params:
            yield prefix + p.name, p
        for name, part in self.parts():
            yield from part.walk(f"{prefix}{name}.")

    def penalty(self, values: Values) -> Tensor | float:
        """What the effect adds to a loss so that its gradients lead somewhere, () or (G,); by default the sum over its
        parts."""
        return sum(part.penalty(values[name]) for name, part in self.parts())

    def from_unit(self, q: Tensor) -> Values:
        """Values of a controller's output q in [0, 1], shape (B, P): one column per number, in declared order.

        Raises UsageError when P is not the number of controls or a parameter has no range.
        """
        declared = list(self.walk())
        names = self.controls()
        if q.shape[1] != len(names):
            raise UsageError(f"got {q.shape[1]} controls for {len(names)}: {', '.join(names)}")
        free = [name for name, p in declared if not isinstance(p.mapping, Bounded)]
        if free:
            raise UsageError(f"a controller needs a range for every parameter; without one: {', '.join(free)}")
        columns = q.split([math.prod(p.shape) for _, p in declared], 1)
        pairs = zip(declared, columns, strict=True)
        return nest({name: p.mapping.from_unit(u.reshape(-1, *p.shape)) for (name, p), u in pairs})

    def controls(self) -> list[str]:
        """Names of the numbers that set the effect, in declared order: "comp.attack", or "taylor.weights.3"."""
        return [f"{name}.{i}" if p.shape else name for name, p in self.walk() for i in range(math.prod(p.shape))]


class Knobs(nn.Module):
    """The trainable raw parameters of an effect; calling it gives their values.

    Its state dict holds raw numbers under the effect's own names ("comp.attack"), and nothing else.

    Args:
        effect: whose declarations to hold.
        generator: source of the defaults that are drawn.
    """

    def __init__(self, effect: Effect, generator: torch.Generator | None = None):
        super().__init__()
        self.mappings = {p.name: p.mapping for p in effect.params}
        for p in effect.params:
            self.register_parameter(p.name, nn.Parameter(p.initial_raw(generator)))
        for name, part in effect.parts():
            self.add_module(name, Knobs(part, generator))

    def forward(self) -> Values:
        own = {name: self.mappings[name].value(raw) for name, raw in self._parameters.items()}
        return own | {name: part() for name, part in self.named_children()}

    def set_values(self, values: Values) -> None:
        """Takes the raw numbers from values in physical units."""
        with torch.no_grad():
            for name, raw in self._parameters.items():
                raw.copy_(self.mappings[name].raw(torch.as_tensor(values[name], dtype=torch.float64)))
            for name, part in self.named_children():
                part.set_values(values[name])


def repeat_for_items(value: Tensor, shape: tuple[int, ...], items: int) -> Tensor:
    """A value (*shape) as it is, and values (G, *shape) one for each item, (items, *shape)."""
    if value.dim() == len(shape) or len(value) == items:
        return value
    return value.repeat_interleave(items // len(value), 0)


def nest(flat: dict[str, Tensor]) -> Values:
    """{"a.b": v} to {"a": {"b": v}}."""
    tree: Values = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def flatten(tree: Values, prefix: str = "") -> dict[str, Tensor]:
    """{"a": {"b": v}} to {"a.b": v}."""
    flat = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
