"""The benchmarks' peer is the published chain: its numbers, gradients included, are those of the release."""

import numpy as np
import pytest
import torch
from measures import relative_rms
from test_golden_diffvox import GOLDEN, golden, gradient_errors, made

for library in ("torchlpc", "torchcomp", "torch_fftconv", "auraloss"):
    pytest.importorskip(library)

from benchmarks import peer  # noqa: E402
from benchmarks.peer_blind import Mel, equalise  # noqa: E402
from benchmarks.peer_loss import PeerLoss  # noqa: E402
from reknob.estimation.estimator import Estimator  # noqa: E402
from reknob.formats.published import entries  # noqa: E402
from reknob.losses import MelLoss  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")


def test_the_peer_in_training_gives_the_output_and_gradients_of_the_release() -> None:
    data, inputs = golden("chain_presetA_train"), np.load(GOLDEN / "inputs.npz")
    chain, knobs = made("chain_presetA_train", data, torch.float64)
    x = torch.from_numpy(inputs["x4"]).double().requires_grad_()
    y = peer.render(x, knobs())
    (y * torch.from_numpy(inputs["w3"])).sum().backward()
    errors = gradient_errors(entries(chain), {name: raw.grad for name, raw in knobs.named_parameters()}, data)
    errors |= {"output": relative_rms(y, data["out_f64"]), "input": relative_rms(x.grad, data["gradx_f64"])}
    assert {name: error for name, error in errors.items() if not error < 1e-6} == {}


@pytest.mark.parametrize("onednn", [True, False])
def test_the_peers_loss_is_the_published_one_on_either_convolution(onednn: bool) -> None:
    data = golden("losses")
    loss = PeerLoss(onednn)(torch.from_numpy(data["pred"]), torch.from_numpy(data["target"]))
    assert abs(loss.item() / data["sum_f64"] - 1) < 1e-5


def test_the_plain_blind_step_has_our_loss() -> None:
    torch.manual_seed(0)
    dry, q = torch.randn(2, 1, 20000, dtype=torch.float64), torch.rand(2, 15, dtype=torch.float64)
    estimator = Estimator(sfx="peq", afx="peq", encoder="percentiles").double()
    ours = estimator.analysis(dry, **estimator.analysis.from_unit(q))
    assert relative_rms(equalise(dry, q), ours) < 1e-4  # what a transform of 2^16 points folds back
    assert Mel().double()(dry, ours).item() == pytest.approx(MelLoss(44100)(dry, ours).item(), rel=1e-6)
