"""Translation between the parameter names of the published DiffVox release and ours: state dicts, preset vectors."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.afx.chain import Sends, Serial
from reknob.afx.dynamics import CompressorExpander
from reknob.afx.effect import Effect
from reknob.afx.param import Free, Param
from reknob.afx.reverb import NoiseReverb
from reknob.runtime.errors import UsageError

# Published names by effect and our name, where they differ.
_SHORT: dict[type[Effect], dict[str, str]] = {
    CompressorExpander: {
        "cmp_threshold": "cmp_th",
        "exp_threshold": "exp_th",
        "makeup": "make_up",
        "attack": "at",
        "release": "rt",
    },
    NoiseReverb: {"level": "log_mag", "decay": "log_mag_delta"},
}
# Scalars that the release stores as vectors of one element.
_VECTORS = {"lookahead", "damping"}


@dataclass(frozen=True)
class Entry:
    """A parameter under both names."""

    ours: str
    theirs: str  # its key in a state dict of the release
    shape: tuple[int, ...]  # in the release
    preset: bool  # whether presets store it


def entries(effect: Effect, ours: str = "", theirs: str = "") -> list[Entry]:
    """Every parameter of an effect in the order of the release; `ours` and `theirs` are prefixes of the names."""
    rows = [_entry(effect, p, ours, theirs) for p in effect.params]
    for i, (name, part) in enumerate(effect.parts()):
        rows += entries(part, f"{ours}{name}.", theirs + _part_prefix(effect, name, i))
    return rows


def _entry(effect: Effect, p: Param, ours: str, theirs: str) -> Entry:
    shape = (1,) if p.name in _VECTORS or isinstance(effect, Sends) else p.shape
    if p.name == "damping":
        return Entry(ours + p.name, f"{theirs}parametrizations.log_damp.original", shape, p.preset)
    if p.name == "phase":
        return Entry(ours + p.name, f"{theirs}_noise_angle", shape, p.preset)
    short = _SHORT.get(type(effect), {}).get(p.name, p.name)
    if isinstance(effect, Sends):
        short = f"sends_{[q.name for q in effect.params].index(p.name)}"
    path = f"params.{short}" if isinstance(p.mapping, Free) else f"params.parametrizations.{short}.original"
    return Entry(ours + p.name, theirs + path, shape, p.preset)


def _part_prefix(effect: Effect, name: str, index: int) -> str:
    if isinstance(effect, Serial):
        return f"{index}."
    if isinstance(effect, Sends):
        return "pan." if name == "direct" else f"effects.{index}."
    return f"{name}."


def from_published(state: dict[str, Tensor], effect: Effect) -> dict[str, Tensor]:
    """Raw parameters by our names from a state dict of the release.

    Parameters that presets do not store (a surrogate's damping) may be absent; buffers are ignored. UsageError naming
    the parameters that are missing, unknown or of another size.
    """
    rows = entries(effect)
    missing = [row.theirs for row in rows if row.preset and row.theirs not in state]
    if missing:
        raise UsageError(f"the published parameters lack {', '.join(missing)}; were they made with another chain?")
    unknown = [name for name in state if name.endswith(".original") and name not in {row.theirs for row in rows}]
    if unknown:
        raise UsageError(f"the chain has no {', '.join(unknown)}; is it the one the parameters were made with?")
    return shaped({row.ours: state[row.theirs] for row in rows if row.theirs in state}, effect)


def shaped(tensors: dict[str, Tensor], effect: Effect) -> dict[str, Tensor]:
    """Tensors by our names, reshaped as the effect declares them; UsageError naming those of another size or type."""
    shapes = {name: p.shape for name, p in effect.walk()}
    not_real = [name for name, t in tensors.items() if not _is_real_tensor(t)]
    if not_real:
        raise UsageError(f"{', '.join(not_real)}: expected tensors of real numbers")
    wrong = [f"{name} {list(t.shape)}" for name, t in tensors.items() if t.numel() != math.prod(shapes[name])]
    if wrong:
        raise UsageError(f"{', '.join(wrong)} of another size; is the chain the one they were made with?")
    return {name: t.reshape(shapes[name]) for name, t in tensors.items()}


def _is_real_tensor(value: object) -> bool:
    """Whether a value from a file is a dense CPU tensor of real numbers; a file may hold sparse or meta tensors."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return not (value.is_complex() or value.is_quantized or value.dtype == torch.bool)


def to_published(raws: dict[str, Tensor], effect: Effect) -> dict[str, Tensor]:
    """Raw parameters by our names, converted to the names and shapes of the release."""
    return {row.theirs: raws[row.ours].reshape(row.shape) for row in entries(effect) if row.ours in raws}


def split_vector(vector: Tensor, keys: list[str], shapes: list[list[int]]) -> dict[str, Tensor]:
    """{key: tensor} of a flat vector (P,), split by the shapes of a preset set; UsageError where the lengths differ."""
    sizes = [int(torch.Size(shape).numel()) for shape in shapes]
    if len(keys) != len(shapes) or vector.numel() != sum(sizes):
        raise UsageError(f"{vector.numel()} numbers for {len(keys)} keys of {sum(sizes)} numbers: they must agree")
    return {k: v.reshape(shape) for k, v, shape in zip(keys, vector.split(sizes), shapes, strict=True)}


def feature_mask(effect: Effect) -> Tensor:
    """The free parameters of a preset's vector, (P,) bool: all but the unused elements of the feedback matrix."""
    parts = []
    for row in entries(effect):
        if row.preset:
            ones = torch.ones(row.shape, dtype=torch.bool)
            # `afx.param.Orthogonal` reads only the elements above the diagonal.
            parts.append((ones.triu(1) if row.ours.split(".")[-1] == "U" else ones).reshape(-1))
    return torch.cat(parts)
