"""A step on another device: nothing is brought there or waited for, shown on a device of shapes without numbers."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_fit import SR, recorded
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reknob.afx.kernels import backends
from reknob.afx.registry import build
from reknob.fitting import fit as fitting_fit
from reknob.fitting.fit import Fit
from reknob.fitting.track import TrackState
from reknob.losses import VocalLoss
from reknob.runtime import device
from reknob.runtime.device import pick_device
from reknob.runtime.settings import read_yaml

WAITING = {"aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.is_nonzero", "aten.masked_select"}
STANDARD = read_yaml(Path(__file__).parents[1] / "cfg" / "model" / "diffvox.yaml")


class Watch(TorchDispatchMode):
    """Notes every operation for which the host would wait for the device, or the device for the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        name = str(func).rsplit(".", 1)[0]
        result = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in (*args, result) if isinstance(t, Tensor) and t.dim()}
        if name in WAITING and "meta" in devices:
            self.found.append(name)
        if name in ("aten._to_copy", "aten.copy_") and len(devices) > 1:
            self.found.append(f"{name} between {' and '.join(sorted(devices))}, {tuple(result.shape)}")
        return result


def shapes_only() -> dict[str, SimpleNamespace]:
    """A back end whose kernels give tensors of the right shape."""

    def forward(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), x.new_empty(1)

    def backward(grad: Tensor, x: Tensor, coefs: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(coefs)

    def fdn_response(feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, *_: object) -> Tensor:
        return feedback.new_empty(
            len(feedback), c.shape[1], b.shape[2], line_gain.shape[2], dtype=feedback.dtype.to_complex()
        )

    def magnitude(x: Tensor, window: Tensor, hop: int, mid_side: bool) -> Tensor:
        return x.new_empty(len(x), 4 if mid_side else 2, x.shape[2] // hop + 1, len(window) // 2 + 1)

    def outputs(H: Tensor, X: Tensor) -> Tensor:
        return X.new_empty(len(X), H.shape[1], H.shape[3])

    names = ("biquad_cascade", "one_pole", "ballistics", "compressor_gain")
    recursions = {f"{n}_forward": forward for n in names} | {f"{n}_backward": backward for n in names}
    return {
        "recursions": SimpleNamespace(**recursions),
        "fdn": SimpleNamespace(
            fdn_response_forward=fdn_response,
            fdn_response_backward=lambda grad, *inputs: tuple(torch.empty_like(t) for t in inputs[:5]),
        ),
        "spectral": SimpleNamespace(
            fir_forward=lambda x, taps: torch.empty_like(x),
            fir_backward=lambda grad, taps: torch.empty_like(grad),
            stft_magnitude_forward=magnitude,
            stft_deviation_forward=lambda x, target, rows, *_: x.new_empty(*rows.shape, 2, dtype=torch.float64),
            stft_deviation_backward=lambda grad, x, *_: torch.empty_like(x),
        ),
        "loudness": SimpleNamespace(
            loudness_ratio_forward=lambda x, coefs, shifts, mix: x.new_empty(len(x), len(mix), len(shifts), x.shape[2]),
            loudness_deviation_forward=lambda x, target, rows, coefs, *_: (
                x.new_empty(*rows.shape, len(coefs), dtype=torch.float64),
                x.new_empty(1),
            ),
            loudness_deviation_backward=lambda grad, x, *_: torch.empty_like(x),
        ),
        "spectral_product": SimpleNamespace(
            outputs=outputs,
            to_inputs=lambda H, grad: grad.new_empty(len(grad), H.shape[2], H.shape[3]),
            to_paths=lambda X, grad, groups: X.new_empty(groups, grad.shape[1], X.shape[1], X.shape[2]),
        ),
    }


@pytest.fixture
def shapes_device(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(backends.BACKENDS, "meta", "shapes_only")
    for family, module in shapes_only().items():
        monkeypatch.setitem(sys.modules, f"reknob.afx.kernels.shapes_only.{family}", module)
    monkeypatch.setattr(fitting_fit, "AsyncCopy", lambda *tensors: None)
    return "meta"


@pytest.mark.parametrize(("counts", "batch_size"), [((2,), 35), ((2, 1, 2), 35), ((2, 3), 2)])
def test_nothing_in_a_step_waits_for_the_device_or_is_brought_to_it(
    shapes_device: str, counts: tuple[int, ...], batch_size: int
) -> None:
    chain = build(STANDARD, 44100).to(shapes_device)
    tracks = [TrackState(chain, recorded(count)) for count in counts]
    fit = Fit(chain, tracks, VocalLoss(SR), lr=0.01, batch_size=batch_size, device=shapes_device)
    with Watch() as watch:
        fit.step()
    # Chunks that are drawn are drawn on the host.
    assert watch.found == (["aten._to_copy between cpu and meta, (4,)"] if batch_size == 2 else [])


def test_the_watch_sees_what_it_watches_for() -> None:
    with Watch() as watch:
        torch.ones(3).to("meta")
        with pytest.raises(RuntimeError):
            torch.empty(1, device="meta").item()
    assert watch.found[0].startswith("aten._to_copy between cpu and meta")


def test_a_gpu_without_its_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("cpu").type == "cpu"
    monkeypatch.setattr(device, "find_spec", lambda package: None)
    for name in ("auto", "cuda"):
        with pytest.raises(ValueError, match="a GPU needs the package triton, which is not installed"):
            pick_device(name)
    monkeypatch.setattr(device, "find_spec", lambda package: package)
    assert pick_device("auto").type == "cuda"
