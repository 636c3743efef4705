"""The benchmarks' peer is the published chain: its numbers, gradients included, are those of the release."""

from pathlib import Path

import numpy as np
import pytest
import torch

for library in ("torchlpc", "torchcomp", "torch_fftconv", "auraloss"):
    pytest.importorskip(library)

from benchmarks.peer import PeerChain  # noqa: E402
from benchmarks.peer_blind import Mel, equalise  # noqa: E402
from benchmarks.peer_loss import PeerLoss  # noqa: E402
from reknob.estimation.estimator import Estimator  # noqa: E402
from reknob.losses import MelLoss  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")
GOLDEN = Path(__file__).parent / "golden" / "diffvox"


def relative_rms(a: torch.Tensor, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.detach().numpy() - b) / np.linalg.norm(b))


def golden_raws(golden: np.lib.npyio.NpzFile) -> dict[str, torch.Tensor]:
    return {key.removeprefix("raw/"): torch.from_numpy(golden[key]) for key in golden.files if key.startswith("raw/")}


def test_the_peer_in_training_gives_the_output_and_gradients_of_the_release() -> None:
    golden, inputs = np.load(GOLDEN / "chain_presetA_train.npz"), np.load(GOLDEN / "inputs.npz")
    chain = PeerChain().double().train()
    chain.load(golden_raws(golden))
    x = torch.from_numpy(inputs["x4"]).double().requires_grad_()
    y = chain(x)
    (y * torch.from_numpy(inputs["w3"])).sum().backward()
    assert relative_rms(y, golden["out_f64"]) < 1e-6
    assert relative_rms(x.grad, golden["gradx_f64"]) < 1e-6
    errors = {name: relative_rms(p.grad, golden[f"grad_f64/{name}"]) for name, p in chain.named_parameters()}
    assert {name: e for name, e in errors.items() if not e < 1e-6} == {}


def test_the_peer_starts_from_the_published_defaults() -> None:
    drawn = {"7.effects.1.params.parametrizations.gamma.original", "7.effects.1.params.parametrizations.U.original"}
    published = golden_raws(np.load(GOLDEN / "chain_default_train.npz"))
    for name, raw in PeerChain().named_parameters():
        if name not in drawn:
            torch.testing.assert_close(raw.detach(), published[name], rtol=1e-5, atol=1e-5, msg=name)


def test_the_peer_refuses_raw_values_that_are_not_all_there() -> None:
    raws = dict(PeerChain().named_parameters())
    del raws["7.effects.1.params.b"]
    with pytest.raises(ValueError, match="7.effects.1.params.b"):
        PeerChain().load(raws)


@pytest.mark.parametrize("onednn", [True, False])
def test_the_peers_loss_is_the_published_one_on_either_convolution(onednn: bool) -> None:
    golden = np.load(GOLDEN / "losses.npz")
    loss = PeerLoss(onednn)(torch.from_numpy(golden["pred"]), torch.from_numpy(golden["target"]))
    assert abs(loss.item() / golden["sum_f64"] - 1) < 1e-5


def test_the_plain_blind_step_has_our_loss() -> None:
    torch.manual_seed(0)
    dry, q = torch.randn(2, 1, 20000, dtype=torch.float64), torch.rand(2, 15, dtype=torch.float64)
    estimator = Estimator(sfx="peq", afx="peq", encoder="percentiles").double()
    ours = estimator.analysis(dry, **estimator.analysis.from_unit(q))
    assert relative_rms(equalise(dry, q), ours.numpy()) < 1e-4  # what a transform of 2^16 points folds back
    assert Mel().double()(dry, ours).item() == pytest.approx(MelLoss(44100)(dry, ours).item(), rel=1e-6)
