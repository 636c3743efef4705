"""Every reader of the project with valid files that it reads, for `benchmarks.fuzz`.

A reader of one file of a folder does not read the others anew: that would take most of the time.
"""

import inspect
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import av
import numpy as np
import soundfile
import torch

from reknob.afx import proxy as proxy_module
from reknob.afx.effect import Effect, Knobs, flatten
from reknob.afx.proxy import WEIGHTS, ProxyCompressor, load_weights
from reknob.afx.registry import EFFECTS, build
from reknob.data.audio import read_audio, write_audio
from reknob.data.chunks import Chunks
from reknob.data.decoding import open_audio
from reknob.data.generated import prepare_generated
from reknob.data.pair_files import find_pairs, find_songs
from reknob.estimation.estimator import Estimator, load_estimator
from reknob.fitting.reproduce import recorded_threads
from reknob.fitting.run_folder import RunFolder
from reknob.fitting.settings import FitSettings
from reknob.fitting.track import TrackState
from reknob.formats import presets, runs
from reknob.formats.certainty import read_certainty
from reknob.formats.effects import read_effects
from reknob.formats.fields import RUN_RECORD, read_fields
from reknob.formats.harvest import read_record
from reknob.formats.preset_document import PresetDocument, document_text, raws_of, read_document
from reknob.runtime.errors import UsageError
from reknob.runtime.files import SHIPPED, read_tensors
from reknob.runtime.locks import HOLDER, FolderLock
from reknob.runtime.trees import yaml_text

SR = 44100
CHAIN = {"peak": {"effect": "peak", "freq": {"default": 800.0, "range": [33, 5400]}}, "comp": {"effect": "compressor"}}
RECORD = {
    "created": "2024-09-18T12:00:00",
    "input_path": "/takes/dry.wav",
    "target_path": "/takes/wet.wav",
    "alignment_shift": 3,
    "losses": [3.0, 2.5, 2.4],
    "terminated_by": None,
    "reproduce": {"threads": 2, "versions": {"torch": "2"}, "inputs": {"dry": {"file": "dry.wav", "sha256": None}}},
}
METADATA = {
    "instrumental": "no",
    "stem_dir": "Song_STEMS",
    "raw_dir": "Song_RAW",
    "stems": {
        "S01": {"filename": "s1.wav", "instrument": "male singer", "raw": {"R01": {"filename": "r1.wav"}}},
        "S02": {"filename": "s2.wav", "instrument": ["drum set"], "raw": {}},
    },
}
CONTAINERS = {".m4a": ("aac", SR), ".mkv": ("aac", SR), ".webm": ("libopus", 48000), ".mov": ("pcm_s16le", SR)}
SECONDS = 0.1  # of audio
LIMIT = 50 * SR  # samples that it may seem to hold


@dataclass(frozen=True)
class Reader:
    """A reader.

    Args:
        name: of the file that is damaged, within a folder.
        seeds: contents that it reads.
        read: reads the file at a path; raises UsageError or nothing.
        beside: further files of the folder, by name.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[Path], object]
    beside: dict[str, bytes]

    def path(self, folder: Path) -> Path:
        """The file's path in a folder, which gets the files beside it."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        for name, content in self.beside.items():
            if not (path.parent / name).exists():
                (path.parent / name).write_bytes(content)
        return path


@cache
def chain() -> Effect:
    """The chain of the seeds; it is built once, as it is declared and holds nothing that a reader changes."""
    return build(CHAIN, SR)


def saved(content: object) -> bytes:
    """The bytes of torch.save."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def raws() -> dict[str, torch.Tensor]:
    """Raw parameters of the chain."""
    return Knobs(chain(), torch.Generator().manual_seed(0)).state_dict()


def text(tree: dict) -> bytes:
    """YAML."""
    return yaml_text(tree).encode()


def track() -> TrackState:
    """The state of a fit of the chain before its first step."""
    chunks = Chunks(torch.zeros(1, 1, 100), torch.zeros(1, 2, 100), 0, (0,))
    return TrackState(chain(), chunks, epochs=3)


def in_run(name: str, read: Callable[[Path], object]) -> Callable[[Path], Reader]:
    """A reader of one file of a run folder."""

    def make(_: Path) -> Reader:
        state = track().state_dict() | {"best_model": raws(), "losses": [3.0, 2.4]}
        files = {
            runs.CONFIG: text({"sr": SR, "chain": CHAIN}),
            runs.META: json.dumps(RECORD | {"raws": runs.record_of(raws())}).encode(),
            runs.CHECKPOINT: saved(state),
            "certainty.json": b'{"peak.gain": {"low": 1.0, "high": 2.0, "word": "found"}}',
            "effects.json": b'{"costs": {"peak": 0.1}, "removed": {}, "loss_before": 1, "loss": 1, "tolerance": 0.1}',
        }
        return Reader(name, [files.pop(name)], read, files)

    return make


def load_run(path: Path) -> None:
    """The run of a file, with the chain in its settings."""
    run = runs.load_run(path.parent)
    Knobs(build(run.config, run.sr)).load_state_dict(run.raws, strict=False)


def load_checkpoint(chains: runs.Chains, path: Path) -> None:
    """The run of a checkpoint, whose settings were read before, and whether it can be resumed."""
    Knobs(chain()).load_state_dict(runs.load_run(path.parent, chains).raws, strict=False)
    runs.load_checkpoint(path.parent)


def load_row(chains: runs.Chains, path: Path) -> None:
    """The raw parameters of a record, by settings that were read before."""
    runs.load_row(path.parent, chains)


def resume(path: Path) -> None:
    """The state of a fit, as `RunFolder` restores it."""
    RunFolder._resume(path.parent, track())


def in_set(name: str, read: Callable[[Path, Effect, list[presets.Preset]], object]) -> Callable[[Path], Reader]:
    """A reader of one file of a preset set, given the set's chain and presets."""

    def make(folder: Path) -> Reader:
        effect, rows = chain(), []
        for i in range(4):
            values = Knobs(effect, torch.Generator().manual_seed(i)).state_dict()
            rows.append(presets.Preset(i, f"/data/{i}/dry.wav", f"/data/{i}/wet.wav", 0, values, f"/logs/{i}/run_0"))
        presets.write_presets(folder, rows, effect, chain=CHAIN, rejected={})
        gaussian = presets.fit_gaussian(presets.to_vectors(rows, effect), effect)
        presets.write_gaussian(folder, gaussian)
        np.save(folder / "rows.npy", np.arange(3))
        (folder / "rows.txt").write_text("0\n1-2\ndry\n")
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        return Reader(f"set/{name}", [files.pop(name)], lambda path: read(path, effect, rows), files)

    return make


def read_presets(path: Path, effect: Effect, _: list[presets.Preset]) -> None:
    """The presets of a set, and the values of one."""
    presets.load_presets(path.parent, effect)[0].values(effect)


def read_set_chain(path: Path, *_: object) -> None:
    """The chain of a set, and its presets as those of this chain."""
    config, sr, file = presets.read_chain(path.parent)
    try:
        effect = build(config, sr)
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error
    presets.load_presets(path.parent, effect)


def read_gaussian(path: Path, effect: Effect, _: list[presets.Preset]) -> None:
    """The Gaussian of a set, and which parameters it is of."""
    presets.read_gaussian(path.parent, effect)


def read_rows(path: Path, _: Effect, rows: list[presets.Preset]) -> None:
    """Numbers of rows of a set."""
    presets.read_rows(str(path), rows)


def read_chain(path: Path) -> None:
    """The chain in a file."""
    config, sr = runs.read_chain_file(path)
    build(config, sr)


def named_in_full(key: str) -> dict:
    """An effect with its options and parameters at their defaults."""
    kind = EFFECTS[key]
    arguments = inspect.signature(kind.__init__).parameters
    options = {name: arguments[name].default for name in kind.options}
    numbers = {p.name: {"default": p.default} for p in kind.params if isinstance(p.default, (int, float))}
    return {"effect": key} | options | numbers


def chain_files(_: Path) -> Reader:
    """Chains, published ones and settings; what damage can reach is what a file names, so that one names everything."""
    shipped = [
        path.read_bytes() for path in (*(SHIPPED / "cfg" / "model").glob("*.yaml"), SHIPPED / "presets/fx_config.yaml")
    ]
    aliases = b"a: &a {effect: peak}\nb: *a\nc: {<<: *a, freq: {default: 100}}\n"
    full = {key: named_in_full(key) for key, kind in EFFECTS.items() if not kind.holds_effects}
    chains = [text({"sr": SR, "chain": chain}) for chain in (CHAIN, full)]
    return Reader("chain.yaml", [*shipped, *chains, aliases], read_chain, {})


def settings(_: Path) -> Reader:
    """A file of settings, as --config takes it, a short one and one of all settings."""
    tree = {"dry": "dry.wav", "wet": "wet.wav", "sr": SR, "epochs": 3, "optimiser": {"lr": 0.01}, "chain": CHAIN}
    tree |= {
        "loss": {"name": "vocal", "weights": [1.0, 0.5, 0.5, 0.25]},
        "chunk_duration": 12,
        "chunk_overlap": "${loss.weights.0}",
    }
    full = asdict(FitSettings()) | {"dry": "dry.wav", "wet": "wet.wav", "data_dir": None, "dataset": "pair"}
    seeds = [text(tree), text(full)]
    return Reader("settings.yaml", seeds, lambda p: import_module("main").read_settings([f"--config={p}"]), {})


def values(_: Path) -> Reader:
    """Values in physical units."""
    content = flatten(Knobs(chain()).requires_grad_(False)())
    return Reader("parametrised.pth", [saved(content)], lambda p: runs.load_values(p, chain()), {})


def document(_: Path) -> Reader:
    """A preset document, as it is rendered with and as a fit starts from it."""
    effect = chain()
    content = flatten(Knobs(effect).requires_grad_(False)())
    one = PresetDocument(
        *(CHAIN, SR, -18.0, content, raws(), "a preset"),
        certainty={"peak.gain": {"low": 1.0, "high": 2.0, "word": "found"}},
        alignment={"shift": 3, "polarity": [1, -1]},
        losses={"vocal": 1.0},
        provenance={"device": "cpu", "inputs": {"dry": {"file": "a.wav", "sha256": None}}, "versions": {"torch": "2"}},
        licence="none",
    )

    def read(path: Path) -> None:
        read_ = read_document(path)
        read_.tensors()
        raws_of(chain(), read_)

    return Reader("preset.json", [document_text(one).encode()], read, {})


def estimator(_: Path) -> Reader:
    """An estimator."""
    one = Estimator(sfx="peq", afx="peq", encoder="percentiles", sr=SR)
    content = {"settings": one.settings, "weights": one.controller.state_dict(), "record": {"valid_loss": 0.5}}
    return Reader("estimator.pt", [saved(content)], load_estimator, {})


def proxy(_: Path) -> Reader:
    """The weights of the compressor's proxy."""
    network = ProxyCompressor(SR, weights=None).network

    def read(path: Path) -> None:
        proxy_module._read.cache_clear()  # of the file of this name before it
        load_weights(network, path)

    return Reader("proxy.pt", [WEIGHTS.read_bytes()], read, {})


def tensors(_: Path) -> Reader:
    """Any tensors by name, as statistics and checkpoints of trainings are read."""
    return Reader("part.pt", [saved({"q": torch.zeros(4, 3).half(), "n": {"a": [1, 2.0, None]}})], read_tensors, {})


def audio(suffix: str) -> Callable[[Path], Reader]:
    """Audio of one format."""

    def make(folder: Path) -> Reader:
        folder.mkdir(parents=True, exist_ok=True)
        t = torch.arange(round(SECONDS * SR)) / SR
        x, path = 0.3 * torch.sin(2 * torch.pi * 440 * t).expand(2, -1), folder / f"x{suffix}"
        if suffix in CONTAINERS:
            encode(path, x)
        elif suffix in (".aiff", ".w64", ".caf", ".au"):
            soundfile.write(path, x.T.numpy(), SR)
        else:
            write_audio(path, x, SR)
        return Reader(f"x{suffix}", [path.read_bytes()], read_sound, {})

    return make


def encode(path: Path, x: torch.Tensor) -> None:
    """Writes audio (2, T) by PyAV."""
    codec, sr = CONTAINERS[path.suffix]
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=sr, layout="stereo")
        frame = av.AudioFrame.from_ndarray(x.contiguous().numpy(), format="fltp", layout="stereo")
        frame.sample_rate = SR
        convert = av.AudioResampler(stream.codec_context.format.name, "stereo", sr, frame_size=960)
        for piece in [*convert.resample(frame), *convert.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))


def read_sound(path: Path) -> None:
    """Audio in whole, and a part of it."""
    if read_audio(path)[0].numel() > LIMIT:
        raise ValueError(f"a file of {SECONDS} s seems to hold far more")
    with open_audio(path) as file:
        file.read(1000, 2000)


def listed(path: Path) -> None:
    """A list of songs."""
    find_songs(path.parent / "logs", None, f"@{path}")


def pairs_of(dataset: str, name: str, content: dict) -> Callable[[Path], Reader]:
    """The metadata of a data set; every pair that it names has to lie inside its folder."""

    def read(path: Path) -> None:
        for files in find_pairs(dataset, path.parent).files:
            inside = [each.resolve().is_relative_to(path.parent.resolve()) for each in (files.dry_path, files.wet_path)]
            if not all(inside) or files.name in ("", ".", "..") or "/" in files.name:
                raise ValueError(f"{files} leaves the folder")

    return lambda _: Reader(f"Song/{name}", [text(content)], read, {})


def generated(path: Path) -> None:
    """The mark of a folder of generated pieces."""
    prepare_generated(path.parent, {"train": 0}, 1.0, SR)


def held(path: Path) -> None:
    """Who holds a lock, as another one that is refused says."""
    lock = FolderLock(path.parent, "wait", name="other.")
    try:
        path.with_name(f".other.{HOLDER}").write_bytes(path.read_bytes())
        FolderLock(path.parent, "wait", name="other.").release()
    finally:
        lock.release()


READERS: dict[str, Callable[[Path], Reader]] = {
    "chain": chain_files,
    "settings": settings,
    "record": in_run(runs.META, lambda p: (read_fields(p, RUN_RECORD), read_record(p.parent, p.parent.parent))),
    "reproduce": in_run(runs.META, lambda p: recorded_threads(p.parent)),
    "recorded raws": in_run(runs.META, partial(load_row, runs.Chains())),
    "run config": in_run(runs.CONFIG, load_run),
    "checkpoint": in_run(runs.CHECKPOINT, partial(load_checkpoint, runs.Chains())),
    "resumed": in_run(runs.CHECKPOINT, resume),
    "certainty": in_run("certainty.json", lambda p: read_certainty(p.parent)),
    "effects": in_run("effects.json", lambda p: read_effects(p.parent)),
    "values": values,
    "preset": document,
    "set info": in_set("info.json", read_presets),
    "set rows": in_set("raw_params.npy", read_presets),
    "set gaussian": in_set("gaussian.npz", read_gaussian),
    "set mask": in_set("feature_mask.npy", read_gaussian),
    "set chain": in_set("fx_config.yaml", read_set_chain),
    "row numbers": in_set("rows.npy", read_rows),
    "row list": in_set("rows.txt", read_rows),
    "estimator": estimator,
    "proxy": proxy,
    "tensors": tensors,
    "medley": pairs_of("medley_vocal", "Song_METADATA.yaml", METADATA),
    "correspondence": pairs_of("internal_vocal", "correspondence_pp.yaml", {"matched": {"lead_vocal.wav": ["a.wav"]}}),
    "song list": lambda _: Reader("songs.txt", [b"# songs\n/data/a\n~/b\n\nc\n"], listed, {}),
    "generated": lambda _: Reader(
        "g/generated.json", [b'{"generator": 1, "seconds": 1.0, "sr": 44100}'], generated, {}
    ),
    "lock": lambda _: Reader("lock.json", [b'{"pid": 5, "host": "a", "since": "2024-01-01T00:00:00"}'], held, {}),
    **{s: audio(s) for s in (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".w64", ".caf", ".au")},
    **{s: audio(s) for s in CONTAINERS},
}
