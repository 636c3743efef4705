"""What holds for every test: threads that wait sleep, as those that spin take the cores from threads that work."""

import functools
import os
import signal
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

# Read when torch is loaded, which no plugin does before this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch  # noqa: E402

# Read when triton is loaded, which some library may do before the first test of its kernels.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Tests under nohup would start programs that ignore this signal too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Files with tests of 5 s and more: at the end of the suite, one process would run such a test alone.
LONG = (
    *("test_triton", "test_notebook", "test_medley_scripts", "test_package", "test_plugins", "test_pages"),
    *("test_statistics_cache", "test_interrupt", "test_kernel_cache", "test_arguments_fuzz", "test_training"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.stem.startswith(LONG))


@pytest.fixture
def brief_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start from the signals of few steps."""
    from reknob.fitting import direct_sound, free_network, space, start

    monkeypatch.setattr(start, "ADAPTING", 12)
    monkeypatch.setattr(direct_sound, "ITERATIONS", 2)
    monkeypatch.setattr(free_network, "READING", 10)
    monkeypatch.setattr(free_network, "DECAYS", (1.0,))
    monkeypatch.setattr(free_network, "LONGEST_S", 0.15)
    monkeypatch.setattr(space, "TOGETHER", ((0.6, 10),))


@pytest.fixture(scope="session", autouse=True)
def _remember_installed_packages() -> Iterator[None]:
    """Programs look for plug-ins among all installed packages, which takes as long as the rest of a refusal."""
    read = metadata.entry_points

    @functools.cache
    def remembered(path: tuple[str, ...], **selected: str) -> metadata.EntryPoints:
        return read(**selected)

    def entry_points(**selected: str) -> metadata.EntryPoints:
        return remembered(tuple(sys.path), **selected)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "entry_points", entry_points)
        yield


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the full chain, with short responses."""
    from takes import SHORT, SMALL, write_pair

    import main

    folder = tmp_path_factory.mktemp("full")
    assert main.main([*write_pair(folder), *SMALL, *SHORT]) == 0
    return folder / "logs" / "song" / "run_0"


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log folder with a run of one effect of each kind, its report, and the page of the folder."""
    from takes import mixed, take, write_pair

    import main
    from reknob.report.page import write_report
    from reknob.report.page.batch import write_batch

    folder = tmp_path_factory.mktemp("reported")
    chain = ["peak1.effect=peak", "peak2.effect=peak", "comp.effect=compressor_expander", "sends.effect=sends"]
    chain += ["sends.delay.effect=ping_pong_delay", "sends.delay.ir_duration=1", "sends.delay.gain.default=0.4"]
    chain += ["sends.reverb.effect=fdn", "sends.reverb.ir_duration=0.5"]
    settings = ["model=null", "chunk_duration=1.2", "chunk_overlap=0.1", "epochs=3", "device=cpu"]
    pair = write_pair(folder, take(1.4), mixed(take(1.4)))
    assert main.main([*pair, *settings, *(f"chain.{option}" for option in chain)]) == 0
    run = folder / "logs" / "song" / "run_0"
    words = {"peak1.gain": "found", "peak1.freq": "bounded", "comp.attack": "not identifiable"}
    entries = (f'"{name}": {{"low": 1.0, "high": 2.0, "word": "{word}"}}' for name, word in words.items())
    (run / "certainty.json").write_text(f"{{{', '.join(entries)}}}")
    write_report(run)
    write_batch(folder / "logs", reasons={"other": "is silent"})
    return folder / "logs"
