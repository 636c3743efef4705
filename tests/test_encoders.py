"""Encoders and their constant-Q transform against the golden arrays, nnAudio and plain torch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reknob.encoders import ENCODERS, Controller, build_encoder
from reknob.encoders.cqt import CQT, bins, kernel
from reknob.encoders.peaks import ConvNormMax, conv_max, window_moments

GOLDEN = Path(__file__).parent / "golden" / "beafx"
SHAPES = json.loads((GOLDEN / "encoders.json").read_text())
PARITY = {"multitimbre_cqt": {"pad_value": 1e-6}, "equaliser": {"pad_value": 1e-4}}
RECORDED = ("time_frequency", "multitimbre_cqt", "equaliser", "mee")
LIGHT = [key for key in ENCODERS if key != "mee"]


def relative_rms(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> float:
    a, b = (np.asarray(v.detach() if isinstance(v, Tensor) else v, dtype=np.float64) for v in (a, b))
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as arrays:
        return dict(arrays)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def learned_keys(module: nn.Module) -> list[str]:
    return [key for key in module.state_dict() if not key.endswith("num_batches_tracked")]


def fill(module: nn.Module) -> nn.Module:
    """Give every learned array the numbers that the golden file's were given, by position."""
    state = module.state_dict()
    for k, key in enumerate(learned_keys(module)):
        value = state[key]
        a = np.random.default_rng(1000 + k).standard_normal(value.shape)
        if key.endswith("running_var"):
            a = 1 + 0.25 * np.abs(a)
        elif key.endswith("running_mean"):
            a = 0.1 * a
        elif value.ndim >= 2:
            a = a * np.sqrt(2 / np.prod(value.shape[1:]))
        elif key.endswith("bias"):
            a = 0.1 * a
        elif value.numel() == 1:
            a = np.full(value.shape, 0.25)
        else:
            a = 1 + 0.1 * a
        value.copy_(torch.from_numpy(a))
    return module


@pytest.fixture(scope="module")
def mee() -> Controller:
    """The one encoder too large to be built for every test, filled."""
    return fill(Controller(build_encoder("mee"), 15))


@pytest.fixture
def controller(request: pytest.FixtureRequest) -> Controller:
    """The filled controller of the encoder named by the test's parameter."""
    if request.param == "mee":
        return request.getfixturevalue("mee")
    return fill(Controller(build_encoder(request.param, **PARITY.get(request.param, {})), 15))


def overwritten(matches: Tensor) -> Tensor:
    """Return the release's 66 features: each bank of filters written from channel 0 on, over those before it."""
    out = torch.zeros_like(matches)
    for bank in matches.split([10, 6, 3, 3] * 3, dim=1):
        out[:, : bank.shape[1]] = bank
    return out


@pytest.mark.parametrize(("controller", "key"), [(key, key) for key in RECORDED], indirect=["controller"])
def test_outputs_equal_the_release_with_the_same_weights(controller: Controller, key: str) -> None:
    arrays = golden("encoders_filled.npz")
    x = torch.from_numpy(arrays["x"])
    encoder = controller.encoder
    if key == "multitimbre_cqt":
        matches = encoder.matches
        encoder.matches = lambda z: overwritten(matches(z))
    with torch.no_grad():
        controller.eval()
        assert relative_rms(encoder(x), arrays[f"{key}_z_eval"]) < 1e-4
        assert relative_rms(controller(x), arrays[f"{key}_q_eval"]) < 1e-4
        encoder.train()
        assert relative_rms(encoder(x), arrays[f"{key}_z_train"]) < 1e-4


@pytest.mark.parametrize(("controller", "key"), [(k, k) for k in ENCODERS if k in SHAPES], indirect=["controller"])
def test_parameter_counts_and_state_shapes_are_the_published_ones(controller: Controller, key: str) -> None:
    expected = SHAPES[key]
    assert controller.encoder.out_dim == expected["out_dim"]
    assert sum(p.numel() for p in controller.encoder.parameters()) == expected["encoder_params"]
    assert sum(p.numel() for p in controller.parameters()) == expected["controller_params_for_15_controls"]
    published = [
        shape
        for name, shape in expected["state_dict"].items()
        if "cqt_kernels" not in name and "lenghts" not in name and "num_batches" not in name
    ]
    assert [list(controller.state_dict()[name].shape) for name in learned_keys(controller)] == published


def test_all_66_timbre_features_depend_on_the_input_and_reach_their_weights() -> None:
    encoder = build_encoder("multitimbre_cqt")
    a, b = (encoder.matches(encoder.cqt(noise(1, 1, 20000, seed=seed))) for seed in (0, 1))
    assert ((a - b).abs() > 1e-6).all()
    encoder(noise(2, 1, 20000)).square().sum().backward()
    for conv in encoder.convs:
        assert (conv.weight.grad.flatten(1).norm(dim=1) > 0).all()


def test_the_timbre_encoder_pads_with_silence() -> None:
    encoder = build_encoder("multitimbre_cqt")
    assert encoder.pad_value == pytest.approx(np.log(1e-6))
    matches = encoder.matches(torch.full((1, 113, 40), np.log(1e-6), dtype=torch.float32))
    weights = torch.cat([conv.weight.sum((1, 2, 3)) for conv in encoder.convs])
    assert torch.allclose(matches[0], weights * np.log(1e-6), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", LIGHT)
def test_a_batch_equals_its_items_in_evaluation(key: str) -> None:
    encoder = build_encoder(key).eval()
    x = noise(3, 1, 81000)
    with torch.no_grad():
        together, one_by_one = encoder(x), torch.cat([encoder(item[None]) for item in x])
    assert together.shape == (3, encoder.out_dim)
    assert relative_rms(together, one_by_one) < 1e-5


@pytest.mark.parametrize("key", LIGHT)
def test_level_and_polarity_do_not_matter(key: str) -> None:
    encoder = build_encoder(key).eval()
    x = noise(1, 1, 81000)
    scale = 1e-3 if key == "percentiles" else -1e-3  # its features depend on the polarity
    with torch.no_grad():
        assert relative_rms(encoder(scale * x), encoder(x)) < 1e-4


@pytest.mark.parametrize("controller", list(ENCODERS), indirect=True)
def test_silence_gives_finite_features_and_gradients(controller: Controller) -> None:
    encoder = controller.encoder.train()
    x = torch.zeros(2, 1, 81000)
    x[1] = 0.1 * noise(1, 81000)
    x.requires_grad_()
    z = encoder(x)
    z.square().sum().backward()
    assert z.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("key", LIGHT)
def test_gradients_reach_every_parameter_and_the_input(key: str) -> None:
    encoder = build_encoder(key)
    x = noise(3, 1, 81000).requires_grad_()
    encoder(x).pow(3).sum().backward()
    assert x.grad.abs().max() > 0
    for name, p in encoder.named_parameters():
        assert p.grad is not None and (p.ndim == 1 or p.grad.abs().max() > 0), name


@pytest.mark.parametrize("key", LIGHT)
def test_training_under_bfloat16_autocast_gives_float32_gradients(key: str) -> None:
    encoder = build_encoder(key)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = encoder(noise(2, 1, 81000))
    z.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in encoder.parameters())


def test_the_transform_equals_the_golden_magnitudes_and_gradient() -> None:
    arrays = golden("cqt.npz")
    x = torch.from_numpy(arrays["x"])[:, 0].requires_grad_()
    magnitudes = CQT()(x)
    assert relative_rms(magnitudes, arrays["mag"]) < 1e-5
    (torch.log(magnitudes + 1e-6) * torch.from_numpy(arrays["w"])).sum().backward()
    assert relative_rms(x.grad, arrays["grad_x"][:, 0]) < 1e-4


def test_bins_and_kernels_equal_nnaudio() -> None:
    features = pytest.importorskip("nnAudio.features.cqt")
    theirs = features.CQT1992v2(sr=44100, n_bins=113, hop_length=512, fmin=32.70, verbose=False)
    table, arrays = bins(44100), golden("cqt.npz")
    assert np.allclose([b.freq for b in table], arrays["freqs"], rtol=1e-12)
    assert np.array_equal([b.length for b in table], arrays["lengths"])
    ours = np.stack([kernel(b, 44100, np.arange(-16384, 16384)) for b in table])
    scale = np.sqrt(arrays["lengths"])[:, None]
    assert np.abs(ours.real - scale * theirs.cqt_kernels_real[:, 0].numpy()).max() < 1e-6
    assert np.abs(ours.imag + scale * theirs.cqt_kernels_imag[:, 0].numpy()).max() < 1e-6


@pytest.mark.parametrize(("sr", "n"), [(44100, 60001), (48000, 51200)])
def test_the_transform_equals_nnaudio_at_any_length_and_rate(sr: int, n: int) -> None:
    features = pytest.importorskip("nnAudio.features.cqt")
    theirs = features.CQT1992v2(sr=sr, n_bins=113, hop_length=512, fmin=32.70, verbose=False)
    x = noise(2, n)
    assert relative_rms(CQT(sr)(x), theirs(x)) < 3e-6


@pytest.mark.parametrize("tilt", [0.0, -1.0, 1.0])
def test_the_transform_is_close_to_a_dense_float64_evaluation(tilt: float) -> None:
    spectrum = torch.fft.rfft(noise(1, 40000, dtype=torch.float64))
    x = torch.fft.irfft(spectrum * torch.arange(1, 20002, dtype=torch.float64) ** tilt, 40000)
    x = x / x.abs().max()
    padded = F.pad(x, (16384, 16384), mode="reflect")[0].numpy()
    frames = [0, 7, 41, 78]
    windows = np.stack([padded[512 * t : 512 * t + 32768] for t in frames])
    dense = np.stack([np.abs(windows @ kernel(b, 44100, np.arange(-16384, 16384))) for b in bins(44100)])
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 3e-6)):
        assert relative_rms(CQT().to(dtype)(x.to(dtype))[0][:, frames], dense) < tolerance


def test_the_transform_refuses_low_rates_and_short_excerpts() -> None:
    with pytest.raises(ValueError, match="22050 Hz is too low .* resample to 44100 Hz"):
        build_encoder("time_frequency", sr=22050)
    with pytest.raises(ValueError, match="an excerpt of 8000 samples is too short .* give more than 11984"):
        build_encoder("multitimbre_cqt")(noise(1, 1, 8000))
    with pytest.raises(ValueError, match="79 frames is too short for the time encoder; give at least 158"):
        build_encoder("time_frequency")(noise(1, 1, 40000))


def test_an_unknown_encoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown encoder 'tfe'; known: multitimbre_cqt, time_frequency, mee"):
        build_encoder("tfe")


def test_the_state_holds_no_transform_kernels() -> None:
    assert not [key for key in build_encoder("time_frequency").state_dict() if "cqt" in key]


def test_convolutions_begin_with_kaiming_weights_and_no_bias() -> None:
    torch.manual_seed(0)
    weight, bias = build_encoder("frequency").profiles[0].conv2[0].parameters()
    assert weight.std().item() == pytest.approx(np.sqrt(2 / (64 * 77)), rel=0.01)
    assert not bias.any()


def test_window_moments_are_those_of_all_windows() -> None:
    x = 5 + noise(2, 3, 29, dtype=torch.float64)
    windows = x.unfold(2, 7, 1).reshape(-1, 7)
    mean, covariance = window_moments(x, 7)
    assert torch.allclose(mean, windows.mean(0), rtol=1e-12)
    assert torch.allclose(covariance, torch.cov(windows.T, correction=0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("slope", [0.25, -0.7, 1.5])
@pytest.mark.parametrize("training", [True, False])
def test_the_searched_maximum_equals_conv_norm_prelu_amax(slope: float, training: bool) -> None:
    torch.manual_seed(0)
    ours = ConvNormMax(5, (1, 6)).double().train(training)
    plain = nn.Sequential(nn.Conv2d(1, 5, (1, 6)), nn.BatchNorm2d(5), nn.PReLU()).double().train(training)
    with torch.no_grad():
        ours.act.weight.fill_(slope)
        for tensor in (ours.norm.weight, ours.norm.bias, ours.norm.running_mean):
            tensor.copy_(torch.randn(5))
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    x = 3 + noise(3, 9, 20, dtype=torch.float64)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = ours(x1), plain(x2[:, None]).amax(2)
    w = noise(*y2.shape, seed=1, dtype=torch.float64)
    (y1 * w).sum().backward()
    (y2 * w).sum().backward()
    assert relative_rms(y1, y2) < 1e-10
    assert relative_rms(x1.grad, x2.grad) < 1e-9
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-10)
    for a, b in zip(ours.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10)


def test_the_searched_maximum_of_a_convolution_equals_max_pooling() -> None:
    weight = noise(3, 1, 4, 2, dtype=torch.float64)
    x = noise(2, 9, 15, seed=1, dtype=torch.float64)
    grads = []
    for pooled in (conv_max, lambda x, w, n: F.max_pool2d(F.conv2d(x[:, None], w), (6, n)).squeeze(2)):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = pooled(a, b, 4)
        (y * noise(*y.shape, seed=2, dtype=torch.float64)).sum().backward()
        grads.append((y, a.grad, b.grad))
    for ours, plain in zip(*grads, strict=True):
        assert relative_rms(ours, plain) < 1e-12


def test_the_controller_gives_unit_values_at_any_width() -> None:
    controller = Controller(build_encoder("percentiles"), 24, hidden=(32, 16))
    q = controller(noise(2, 1, 20000))
    assert q.shape == (2, 24) and (q >= 0).all() and (q <= 1).all()
    assert controller.mlp[3].weight.shape == (16, 32)
