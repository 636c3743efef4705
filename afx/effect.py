"""Effects, which declare parameters and hold none, and Knobs, which hold the raw parameters of an effect."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from reknob.runtime.errors import UsageError

from .curve import Curve
from .options import Bound
from .param import Bounded, Param
from .param import Mapping as ParamMapping
from .stages import Stage

#: Values by name, as an effect with parts takes them: a tensor per parameter of its own, a tree of them per part.
#: `part_values` and `own_values` read one part's tree and the tensors; an effect without parts takes `Tensors`.
Values: TypeAlias = dict[str, "Tensor | Values"]
Tensors: TypeAlias = dict[str, Tensor]


class Effect(nn.Module):
    """An audio effect: declared parameters, and a pure function from audio and values to audio.

    A subclass declares `params` and implements `forward(x, *, name=value, …)`: audio (B, C, T); values in the
    declared units and of the declared shape, or with a leading batch dimension (B, *shape), one per item. `for_items`
    expands values (G, *shape), one per group of consecutive items, to that form. An effect is time-invariant, because
    chunks begin anywhere in a recording. `stage` renders it block by block; `label` and `curves` serve figures;
    `off_values` switch it off.

    Args:
        sr: sample rate in Hz.
        overrides: by parameter name, `default` or `range` of this instance, e.g. `freq=dict(range=[33, 5400])`.
    """

    params: tuple[Param, ...] = ()
    #: Its name in figures; None for the name of its class, "" for an effect that figures do not name.
    label: ClassVar[str | None] = None
    #: "delay" or "reverb" for effects that users can leave out of a render; "" for all others.
    family: ClassVar[str] = ""
    #: Whether its gain depends on the level of its input: only then does its place beside an equaliser matter.
    level_dependent: ClassVar[bool] = False
    #: The options that select its sample-by-sample form; empty where there is only one form.
    realtime_options: ClassVar[dict[str, object]] = {}
    #: Bounds of the options, which are chosen at construction, by name.
    options: ClassVar[dict[str, Bound]] = {}
    #: Whether any other keyword at construction is the name of an effect inside this one.
    holds_effects: ClassVar[bool] = False
    #: Numbers of channels that the input may have, and that of the output; None for the input's.
    input_channels: ClassVar[tuple[int, ...]] = (1, 2)
    output_channels: ClassVar[int | None] = None

    def __init__(self, sr: int, **overrides: dict) -> None:
        super().__init__()
        unknown = sorted(overrides.keys() - {p.name for p in self.params})
        if unknown:
            known = ", ".join(p.name for p in self.params) or "none"
            raise UsageError(f"{type(self).__name__} has no parameter {', '.join(unknown)}; it has: {known}")
        self.sr = sr
        # On the instance: overrides of one effect must not change the others of its class.
        self.params = tuple(p.with_(**overrides.get(p.name, {})) for p in self.params)

    def __call__(self, x: Tensor, **values: Any) -> Tensor:  # noqa: ANN401 - numbers, lists and arrays of any kind
        """The output of audio x (B, C, T); values as of `forward`, or plain numbers and lists, nested in dicts."""
        return super().__call__(x, **self.tensors(values, x))

    def tensors(self, values: Mapping[str, Any], like: Tensor) -> Values:
        """Values as `forward` takes them, from numbers, lists and arrays of the declared shapes, or one more dimension
        for the items of a batch; as they are where all are tensors.

        Args:
            values: by name, in the declared units; those of parts as nested dicts.
            like: has the dtype and the device of the result.

        Raises UsageError for a name that the effect does not have, a value that is missing, has another shape or lies
        outside its range, and what is no number.
        """
        return dict(values) if are_tensors(values) else self._tensors(values, like)

    def _tensors(self, values: Mapping[str, Any], like: Tensor, place: str = "") -> Values:
        """The same of values that are checked; `place` is where they stand, for messages: "sends.delay."."""
        declared, parts = {p.name: p for p in self.params}, dict(self.parts())
        # A parameter that presets do not store may be missing from values made of one.
        needed = [name for name in (*declared, *parts) if name in parts or declared[name].preset]
        missing = [name for name in needed if name not in values]
        unknown = [name for name in values if name not in declared and name not in parts]
        if missing or unknown:
            # The unknown name first: a misspelt one is unknown and missing, and the spelling is the mistake.
            problem = f"{place}{unknown[0]} is unknown" if unknown else f"{place}{missing[0]} is missing"
            raise UsageError(
                f"values: {problem}; {type(self).__name__} has: {', '.join((*declared, *parts)) or 'none'}"
            )
        tensors: Values = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[name] = value
            elif name in parts:
                if not isinstance(value, Mapping):
                    raise UsageError(f"values: {place}{name}={str(value)[:80]}: give its values by name, in a dict")
                tensors[name] = parts[name]._tensors(value, like, f"{place}{name}.")
            else:
                tensors[name] = checked = as_tensor(value, declared[name].shape, like, place + name)
                declared[name].check(checked, place + name)
        # Presets do not hold these, so that a user has none to give.
        return tensors | {n: p.mapping.value(p.initial_raw()).to(like) for n, p in declared.items() if n not in values}

    def channels(self, given: int, place: str = "chain") -> int:
        """Number of output channels for `given` input channels; UsageError, naming `place`, for an input it rejects."""
        if given not in self.input_channels:
            allowed = " or ".join("mono" if n == 1 else "stereo" for n in self.input_channels)
            raise UsageError(f"{place}: {type(self).__name__} takes {allowed}, but its input has {given} channels")
        return self.output_channels or given

    @property
    def grouped(self) -> bool:
        """Whether `forward` accepts values (G, *shape) directly, one per group of B / G consecutive items."""
        return False

    def for_items(self, values: Values, items: int) -> Values:
        """Values () or (G, *shape) in the form that `forward` takes for a batch of `items` items."""
        if self.grouped:
            return values
        shapes = {name: p.shape for name, p in self.walk()}
        return nest({name: repeat_for_items(value, shapes[name], items) for name, value in flatten(values).items()})

    def render_after_warm_up(self, x: Tensor, skip: int, **values: Tensor | Values) -> Tensor:
        """The output from sample `skip` on, (B, C, T - skip); overridden where skipping the warm-up is cheaper."""
        return self(x, **values)[..., skip:]

    @property
    def runs_by_sample(self) -> bool:
        """Whether this instance runs sample by sample, without an impulse response and without gradients."""
        return False

    def stage(self, values: Values) -> Stage:
        """A new stage that renders block by block with one set of values, without a batch dimension."""
        raise TypeError(f"{type(self).__name__} cannot be streamed: implement `stage` by a function of afx.stages")

    def curves(self, values: Values) -> list[Curve]:
        """Curves for figures of the effect with one set of values; empty where no curve describes it."""
        return []

    @property
    def response_start(self) -> int:
        """Samples before which its impulse response is zero at all values, but for the ripple of a fractional delay."""
        return 0

    def shortened(self, samples: int) -> Self:
        """A copy whose `response` holds the first samples only, at a fraction of the cost, where it is a long one."""
        return copy.deepcopy(self)

    def off_values(self) -> dict[str, float | tuple[float, ...]]:
        """Values that switch it off: the output equals the input or, for an effect beside a direct path, is zero.

        Empty where no values do; such an effect has to be left out of the chain.
        """
        return {}

    def switches(self) -> dict[str, dict[str, float | tuple[float, ...]]]:
        """The values that switch off each of its parts that can be off alone, by the part's name, "" for all of it.

        By default those of `off_values`. An effect without these may give the values that change its input least.
        """
        off = self.off_values()
        return {"": off} if off else {}

    def off(self, values: Values) -> Values:
        """These values with those of `off_values` in their place, in all parts; UsageError where there are none."""
        off = self.off_values()
        if off:
            present = own_values(values)
            return values | {k: torch.as_tensor(v).to(present[k]).expand_as(present[k]) for k, v in off.items()}
        parts = dict(self.parts())
        if not parts:
            raise UsageError(f"{type(self).__name__} has no values that switch it off: leave it out of the chain")
        return values | {name: part.off(part_values(values, name)) for name, part in parts.items()}

    def limit_loop_q(self, values: Values, most: float) -> Values:
        """These values with the Q of filters in feedback loops limited to `most`: a higher Q can be unstable."""
        return values | {name: part.limit_loop_q(part_values(values, name), most) for name, part in self.parts()}

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, "Effect"]]:
        """The effects that figures show separately, each with the prefix of its parameters ("sends.delay.")."""
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
        """Regularisation term to add to a loss, () or (G,); by default the sum over its parts."""
        return sum(part.penalty(part_values(values, name)) for name, part in self.parts())

    def from_unit(self, q: Tensor) -> Values:
        """Values of a controller's output q in [0, 1], shape (B, P), one column per entry of `controls`.

        Raises UsageError when P is not the number of controls or a parameter has no range.
        """
        declared = list(self.walk())
        names = self.controls()
        if q.shape[1] != len(names):
            raise UsageError(f"got {q.shape[1]} controls for {len(names)}: {', '.join(names)}")
        mappings = {name: p.mapping for name, p in declared if isinstance(p.mapping, Bounded)}
        free = [name for name, _ in declared if name not in mappings]
        if free:
            raise UsageError(f"a controller needs a range for every parameter; without one: {', '.join(free)}")
        columns = q.split([math.prod(p.shape) for _, p in declared], 1)
        pairs = zip(declared, columns, strict=True)
        return nest({name: mappings[name].from_unit(u.reshape(-1, *p.shape)) for (name, p), u in pairs})

    def controls(self) -> list[str]:
        """Names of the scalars of all parameters, in declared order: "comp.attack", or "taylor.weights.3"."""
        return [f"{name}.{i}" if p.shape else name for name, p in self.walk() for i in range(math.prod(p.shape))]


@runtime_checkable
class HasResponse(Protocol):
    """A linear time-invariant effect that computes its impulse response, (…, outputs, inputs, samples), from values."""

    response: Callable[..., Tensor]


class Knobs(nn.Module):
    """The trainable raw parameters of an effect; calling it gives their values.

    Its state dict holds the raw parameters under the effect's names ("comp.attack"), and nothing else.

    Args:
        effect: the effect whose declarations define names, shapes and defaults.
        generator: random numbers for defaults that are distributions.
    """

    def __init__(self, effect: Effect, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.mappings: dict[str, ParamMapping] = {p.name: p.mapping for p in effect.params}
        for p in effect.params:
            self.register_parameter(p.name, nn.Parameter(p.initial_raw(generator)))
        for name, part in effect.parts():
            self.add_module(name, Knobs(part, generator))

    def forward(self) -> Values:
        values = {name: mapping.value(getattr(self, name)) for name, mapping in self.mappings.items()}
        return values | {name: part() for name, part in self.named_children()}

    def set_values(self, values: Values) -> None:
        """Sets the raw parameters to those of values in physical units."""
        with torch.no_grad():
            for name, mapping in self.mappings.items():
                # float64, as a value near an end of its range loses its digits in a float32 logit.
                getattr(self, name).copy_(mapping.raw(torch.as_tensor(values[name], dtype=torch.float64)))
            for name, part in self.named_children():
                if isinstance(part, Knobs):
                    part.set_values(part_values(values, name))


def values_at(effect: Effect, raws: Mapping[str, Tensor], device: torch.device | str = "cpu") -> Values:
    """The values of raw parameters by name; absent ones, which presets do not store, are at their defaults."""
    knobs = Knobs(effect).requires_grad_(False).to(device)
    knobs.load_state_dict(raws, strict=False)
    return knobs()


@dataclass(frozen=True)
class Part(Bound):
    """An effect of the class `kind` or, with `of`, a chain `kind` of effects of the class `of`; it may be left out."""

    kind: type[Effect]
    of: type[Effect] | None = None

    def read(self, name: str, value: object) -> Effect:
        # A configuration may give any effect here, and only a chain has parts that `of` restricts.
        inside = [part for _, part in value.parts()] if self.of and isinstance(value, self.kind) else []
        if not isinstance(value, self.kind) or (self.of and not all(isinstance(part, self.of) for part in inside)):
            wanted = f"a chain of {_kinds(self.of)}" if self.of else _kinds(self.kind)
            raise UsageError(f"{name}: {type(value).__name__} is not allowed here; give {wanted}")
        if self.of and not inside:
            raise UsageError(f"{name}: an empty chain; put effects into it, or leave it out")
        return value


def _kinds(kind: type) -> str:
    """A class and its direct subclasses in words, for messages."""
    below = [sub.__name__ for sub in kind.__subclasses__()]
    return f"a {kind.__name__}" + (f" ({', '.join(below)}, …)" if below else "")


def are_tensors(values: Mapping[str, Any]) -> bool:
    """Whether all values are tensors already, also those of the parts: some microseconds for a chain of 60."""
    for value in values.values():
        if not isinstance(value, Tensor) and not (isinstance(value, dict) and are_tensors(value)):
            return False
    return True


def as_tensor(value: object, shape: tuple[int, ...], like: Tensor, name: str) -> Tensor:
    """A value of a declared shape, or one for each item of the batch `like`; UsageError for anything else."""
    try:
        tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"values: {name}={str(value)[:80]}: expected numbers") from error
    if tuple(tensor.shape) not in (shape, (len(like), *shape)):
        wanted = f"{shape or 'one number'}, or {(len(like), *shape)} for the items"
        raise UsageError(f"values: {name} has the shape {tuple(tensor.shape)}; expected {wanted}")
    return tensor


def own_values(values: Values) -> Tensors:
    """The values of an effect's own parameters, without those of its parts."""
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def part_values(values: Values, name: str) -> Values:
    """The values of the part `name` of an effect."""
    part = values[name]
    assert isinstance(part, dict), f"{name}: values of a part, not of a parameter"
    return part


def repeat_for_items(value: Tensor, shape: tuple[int, ...], items: int) -> Tensor:
    """Values (G, *shape), one per group, repeated to one per item, (items, *shape); a value (*shape) unchanged."""
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
            node.setdefault(parent, {})
            node = part_values(node, parent)
        node[leaf] = value
    return tree


def flatten(tree: Values, prefix: str = "") -> Tensors:
    """{"a": {"b": v}} to {"a.b": v}."""
    flat = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
