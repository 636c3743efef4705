"""Kernels called from several threads, and from processes that were forked."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import numba
import pytest
from takes import SR, mixed, take

import reknob
from reknob.afx.kernels import backends, numba_cpu
from reknob.data.audio import write_audio

ROOT = Path(__file__).parents[1]
TWO_THREADS = """
import sys, threading, torch
import reknob.afx.registry, reknob.afx.stream
from reknob.afx.kernels import one_pole, realtime_delay

assert "numba" not in sys.modules, "effects import the compiler"

x = torch.randn(4, 2000, generator=torch.Generator().manual_seed(0))
delay, feedback, low_pass = torch.tensor([20]), torch.tensor([0.5]), torch.tensor([[1.0, 0, 0, 0, 0]])

def work(results):
    for _ in range(300):
        coef = torch.full((1,), 0.1, requires_grad=True)
        one_pole(x, coef).square().sum().backward()
        results.add((coef.grad.item(), realtime_delay(x, delay, feedback, low_pass).sum().item()))

found = [set(), set()]
threads = [threading.Thread(target=work, args=(results,)) for results in found]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found[0] == found[1] and len(found[0]) == 1, found
print("done")
"""


def test_two_threads_may_call_kernels_forwards_and_backwards_which_load_the_compiler_only_when_called() -> None:
    """Help needs no folder for loops, as effects are imported without numba."""
    command = [sys.executable, "-c", TWO_THREADS]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.stdout == "done\n", run.stderr
    assert run.returncode == 0


def test_two_fits_in_two_threads_give_the_numbers_of_each_alone_and_can_be_stopped_apart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = tmp_path / "dry.wav", tmp_path / "wet.wav"
    dry = take(1.4)
    for path, x in zip(paths, (dry, mixed(dry)), strict=True):
        write_audio(path, x, SR)
    options = {"model": "eq_comp", "chunk_duration": 1.2, "chunk_overlap": 0.2, "batch_size": 1, "device": "cpu"}
    steps: dict[str, list[int]] = {"vocal": [], "mss": []}

    def fit(loss: str, stop_after: int) -> reknob.Fit:
        seen = steps[loss]
        seen.clear()
        return reknob.fit(
            *paths, steps=4, loss=loss, on_step=lambda step, _: seen.append(step),
            stopped=lambda: len(seen) >= stop_after, **options,
        )  # fmt: skip

    chosen = {"vocal": 4, "mss": 2}
    alone = {loss: fit(loss, stop) for loss, stop in chosen.items()}
    together: dict[str, reknob.Fit] = {}
    threads = [Thread(target=lambda loss=loss: together.update({loss: fit(loss, chosen[loss])})) for loss in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps == {"vocal": [1, 2, 3, 4], "mss": [1, 2]}
    for loss, fitted in together.items():
        assert fitted.losses == pytest.approx(alone[loss].losses, rel=1e-6)
        assert fitted.values["comp"]["attack"] == pytest.approx(alone[loss].values["comp"]["attack"], rel=1e-5)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("layer", "used"), [("default", "workqueue"), ("tbb", "tbb"), ("omp", "omp")])
def test_the_threads_that_a_user_chose_are_respected(layer: str, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "THREADING_LAYER", layer)
    importlib.reload(numba_cpu)
    assert numba.config.THREADING_LAYER == used


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_process_forked_while_another_thread_runs_a_kernel_may_run_its_own() -> None:
    held, done = Event(), Event()

    def hold() -> None:
        with backends._cpu:
            held.set()
            done.wait()

    thread = Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if backends._cpu.acquire(timeout=2) else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
