"""Damaged files for every reader, and what a stranger's file may not do: take memory, or lead out of its folder."""

import io
import json
import random
import resource
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from strange import Change, bounded, circle, device, enormous, fifo, folder

from benchmarks.fuzz import damaged, feed
from benchmarks.readers import READERS
from reknob.afx.registry import build
from reknob.data.pair_files import find_pairs
from reknob.formats.certainty import read_certainty
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_tensors

INPUTS = 300  # of each reader, the first of the 10 000 that `make fuzz` feeds


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Names in a file may lead to these folders, whose files would be gone through.
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("HOME", str(tmp_path / "empty"))
    reader = READERS[name](tmp_path / "seeds")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Of the lock the reader is a refusal, which names its holder.
    assert feed(reader, reader.seeds[0], tmp_path / "valid") == ("refused" if name == "lock" else "read")
    for number in range(INPUTS):
        feed(reader, damaged(reader.seeds, random.Random(f"{name}0{number}")), tmp_path / "damaged")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6, "kB"


@pytest.mark.parametrize("change", [fifo, device, folder, circle, enormous])
@pytest.mark.parametrize("name", ["chain", "proxy", "estimator", "preset", "values", "medley", "song list"])
def test_what_is_no_file_is_refused_at_once(name: str, change: Change, tmp_path: Path) -> None:
    reader = READERS[name](tmp_path / "seeds")
    path = reader.path(tmp_path)
    path.write_bytes(reader.seeds[0])
    change(path)
    with bounded(), pytest.raises(UsageError):
        reader.read(path)


def test_a_file_of_tensors_takes_no_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    plain, packed = io.BytesIO(), tmp_path / "packed.pt"
    torch.save({"x": torch.zeros(2_500_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert packed.stat().st_size < 20_000
    with pytest.raises(UsageError, match="compressed"):
        read_tensors(packed)
    torch.save({"x": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UsageError, match="since 1.6"):
        read_tensors(tmp_path / "old.pt")


@pytest.mark.parametrize("name", ["../../../x.wav", "/etc/passwd", "..", "a/../../x"])
def test_names_in_the_metadata_of_a_data_set_lead_nowhere_else(name: str, tmp_path: Path) -> None:
    song = tmp_path / "Song"
    song.mkdir()
    tracks = {"R": {"filename": "r.wav"}}
    stems = {"S": {"filename": name, "instrument": "female singer", "raw": tracks}}
    metadata = {"stem_dir": "S", "raw_dir": "R", "stems": stems}
    (song / "Song_METADATA.yaml").write_text(yaml.safe_dump(metadata))
    with pytest.raises(UsageError, match="no file inside the folder"):
        find_pairs("medley_vocal", song)
    (song / "correspondence_pp.yaml").write_text(yaml.safe_dump({"matched": {"lead_vocal.wav": [name]}}))
    with pytest.raises(UsageError, match="no file inside the folder"):
        find_pairs("internal_vocal", song)


def test_a_chain_takes_no_more_memory_than_a_long_reverb_does() -> None:
    with pytest.raises(UsageError, match="at most 2000 and 30000000 are allowed"):
        build({f"fir{i}": {"effect": "fir", "length": 1_000_000} for i in range(100)}, 44100)
    with pytest.raises(UsageError, match="at most 2000"):
        build({f"peak{i}": {"effect": "peak"} for i in range(50_000)}, 44100)


def test_inputs_that_once_failed_are_refused(tmp_path: Path) -> None:
    (tmp_path / "certainty.json").write_text(json.dumps({"a.x": {"low": 0, "high": 10**400, "word": "found"}}))
    with pytest.raises(UsageError, match="no finite number"):
        read_certainty(tmp_path)
    (tmp_path / "correspondence_pp.yaml").write_text('matched: {"lead_vocal.wav": ["\\uD800"]}')
    with pytest.raises(UsageError, match="no path that a file can have"):
        find_pairs("internal_vocal", tmp_path)
    reader = READERS["resumed"](tmp_path)
    state = torch.load(io.BytesIO(reader.seeds[0]), weights_only=True)
    path = reader.path(tmp_path / "run_0")
    torch.save(state | {"model": dict.fromkeys(state["model"], 5)}, path)
    with pytest.raises(UsageError, match="its checkpoint is of another fit"):
        reader.read(path)
    for name, part in (("proxy", None), ("estimator", "weights")):
        reader = READERS[name](tmp_path)
        content = torch.load(io.BytesIO(reader.seeds[0]), weights_only=True)
        weights = content[part] if part else content
        weights |= {next(iter(weights)): next(iter(weights.values())).to(torch.complex64)}
        torch.save(content, reader.path(tmp_path))
        with pytest.raises(UsageError, match="not finite real numbers|no weights by name"):
            reader.read(reader.path(tmp_path))
