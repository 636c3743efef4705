"""The jobs that `benchmarks.kill` ends: what they run, and what they leave."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
import yaml

from benchmarks.disturb import Job
from reknob.afx.effect import Knobs
from reknob.afx.registry import build
from reknob.data.audio import read_audio, write_audio
from reknob.estimation.trainer import state_path
from reknob.estimation.training_run import LAST
from reknob.formats import runs
from reknob.formats.presets import read_info
from reknob.formats.run_audio import run_audio
from reknob.runtime.files import read_array, read_json, read_tensors

# Not by an import statement: a program is here what is run, as from a command line.
FIT_PROGRAM, TRAIN, HARVEST, TRAIN_ON_STATISTICS = (
    import_module(name).main
    for name in ("main", "train_analysis_net", "scripts.get_params", "scripts.train_on_statistics")
)
SR = 16000


def _take(seed: int, seconds: float = 2.0) -> torch.Tensor:
    """Noise (1, T) that comes and goes."""
    t = torch.arange(round(seconds * SR)) / SR
    phrases = (torch.sin(2 * torch.pi * 1.5 * t) > 0).float() + 0.001
    return 0.1 * torch.randn(1, len(t), generator=torch.Generator().manual_seed(seed)) * phrases


FIT = [
    *(f"sr={SR}", "model=null", "chain.peak.effect=peak", "chain.peak.freq.range=[33,7000]"),
    "chain.comp.effect=compressor_expander",
    "loss.name=esr",
    *("chain.pan.effect=panning", "chunk_duration=0.5", "chunk_overlap=0.1", "epochs=20", "device=cpu", "resume=true"),
]


VOCAL = ("loss.name=vocal", "chunk_duration=1.2", "epochs=8")


def _pairs(count: int, seconds: float = 2.0) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for seed in range(count):
            x = _take(seed, seconds)
            write_audio(folder / f"song{seed}_dry.wav", x, SR)
            write_audio(folder / f"song{seed}_wet.wav", 0.8 * x.clamp(-0.15, 0.15).expand(2, -1), SR)

    return prepare


def _fit(*more: str) -> Callable[[Path, Path], int]:
    def run(inputs: Path, folder: Path) -> int:
        return FIT_PROGRAM([f"data_dir={inputs}", f"log_dir={folder / 'logs'}", *FIT, *more])

    return run


def _fit_result(folder: Path) -> dict[str, object]:
    result: dict[str, object] = {}
    for song in sorted(folder.glob("logs/*")):
        # A run that was killed before its first checkpoint holds nothing; the next one takes another number.
        run, name = runs.numbered(song)[-1], song.name
        result |= {f"{name}/{key}": value for key, value in read_tensors(run / runs.VALUES).items()}
        meta = read_json(run / runs.META)
        result |= {f"{name}/{key}": meta[key] for key in ("undone", "terminated_by", "alignment_shift")}
        result[f"{name}/losses"] = torch.tensor(meta["losses"], dtype=torch.float64)
        result |= {f"{name}/{kind}": read_audio(path)[0] for kind, path in run_audio(run).items()}
        result[f"{name}/left"] = sorted(path.name for path in run.iterdir() if path.name.startswith("."))
    return result


def _check_fit(folder: Path) -> None:
    for run in folder.glob("logs/*/run_*"):
        for name, read in ((runs.META, read_json), (runs.CONFIG, _read_yaml), (runs.CHECKPOINT, read_tensors)):
            if (run / name).exists():
                read(run / name)
        for name, read in ((runs.VALUES, read_tensors), ("preset.json", read_json)):
            if (run / name).exists():
                read(run / name)
        for path in run_audio(run).values():
            read_audio(path)


def _read_yaml(path: Path) -> object:
    return yaml.safe_load(path.read_text())


TRAINING = "--encoder=percentiles --seconds=1 --batch_size=2 --valid_items=2 --test_items=2 --workers=0 --loss=params"


def _train(inputs: Path, folder: Path) -> int:
    argv = [*TRAINING.split(), "--data=folder", f"--data_dir={inputs}", f"--log_dir={folder / 'logs'}", "--device=cpu"]
    begun = ["--resume"] * bool(list(folder.glob(f"logs/*/{LAST}")))
    return TRAIN([*argv, "--epochs=3", "--epoch_items=12", *begun])


def _recordings(folder: Path) -> None:
    for seed in range(4):
        write_audio(folder / f"take{seed}.wav", _take(seed, 2.5), SR)


def _training_result(folder: Path) -> dict[str, object]:
    (run,) = folder.glob("logs/*")
    estimator = read_tensors(run / "estimator.pt")
    record = {"valid_loss": estimator["record"]["valid_loss"], "scores": read_json(run / "metrics.json")}
    return {**estimator["weights"], **record}


def _check_training(folder: Path) -> None:
    for path in folder.glob("logs/*/*"):
        if path.suffix in (".ckpt", ".pt") and not path.name.startswith("."):
            read_tensors(path)


STATISTICS = "--seconds=1 --steps=30 --batch_size=4 --windows=1 --test_items=0 --workers=0 --chain=peq"


def _statistics(inputs: Path, folder: Path) -> int:
    argv = [*STATISTICS.split(), "--data=folder", f"--data_dir={inputs}", f"--log_dir={folder / 'logs'}"]
    out = folder / "a.pt"
    return TRAIN_ON_STATISTICS([*argv, f"--out={out}", "--resume" if state_path(out).exists() else "--overwrite"])


def _statistics_result(folder: Path) -> dict[str, object]:
    estimator = read_tensors(folder / "a.pt")
    return {**estimator["weights"], "valid_loss": estimator["record"]["valid_loss"]}


def _check_statistics(folder: Path) -> None:
    for path in (*folder.rglob("*.pt"), *folder.glob("*.ckpt")):
        if not path.name.startswith("."):
            read_tensors(path)


def _runs_to_harvest(folder: Path) -> None:
    """Run folders of a small chain, as a fit leaves them."""
    chain = {"peak": {"effect": "peak"}}
    for number in range(60):
        run = runs.new_run(folder, f"song{number:03d}")
        paths = {"input_path": f"/dry{number}.wav", "target_path": f"/wet{number}.wav", "alignment_shift": 0}
        runs.begin(run, {"sr": 44100, "chain": chain}, **paths)
        raws = {name: raw + 0.01 * number for name, raw in Knobs(build(chain, 44100)).state_dict().items()}
        runs.save_checkpoint(run, {"best_model": raws})
        runs.finish(run, raws, {"losses": [2.0, 1.5, 1.4, 1.3], "terminated_by": None})


def _harvest(inputs: Path, folder: Path) -> int:
    return HARVEST([str(inputs), str(folder / "set"), "2020-01-01", "--overwrite"])


def _harvest_result(folder: Path) -> dict[str, object]:
    return {path.name: path.read_bytes() for path in (folder / "set").iterdir()}


def _check_harvest(folder: Path) -> None:
    if (folder / "set").exists():
        rows = read_array(folder / "set" / "raw_params.npy")
        if len(rows) != 60 or len(read_info(folder / "set")["dry_files"]) != 60:
            raise ValueError(f"the set has {len(rows)} rows")


# Songs of a batch are saved one after another: between two of them a kill leaves one a step behind, and it goes on in
# another batch, with other rounding. The tolerance is a step of the 16 bits of the recordings.
ROUNDING = 2**-15
JOBS: dict[str, Callable[[Path], Job]] = {
    "fit": lambda folder: Job(folder, _pairs(1), _fit(), _fit_result, _check_fit),
    "batch": lambda folder: Job(folder, _pairs(3), _fit(*VOCAL), _fit_result, _check_fit, ROUNDING),
    "few chunks": lambda folder: Job(folder, _pairs(1), _fit("step_chunks=2"), _fit_result, _check_fit),
    "training": lambda folder: Job(folder, _recordings, _train, _training_result, _check_training),
    "statistics": lambda folder: Job(folder, _recordings, _statistics, _statistics_result, _check_statistics),
    "harvest": lambda folder: Job(folder, _runs_to_harvest, _harvest, _harvest_result, _check_harvest),
}
