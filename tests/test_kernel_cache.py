"""Compiled loops on disk: loaded by later processes, compiled anew where sources changed or files are damaged."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from reknob.afx import kernels
from reknob.afx.kernels.numba_cpu import cache

NOWHERE = Path(os.devnull) / "nowhere"  # where not even root can create a folder
HELPER = """
from loops.cache import kernel

@kernel()
def weigh(x):
    return FACTOR * x
"""
LOOP = """
from loops.cache import kernel
from loops.helper import weigh

@kernel()
def total(x, n):
    y = 0.0
    for _ in range(n):
        y += weigh(x)
    return y
"""
PRODUCT = """
from loops.cache import kernel

@kernel(error_model="numpy", fastmath={"contract"})
def multiply(s, i, j):
    for w in range(128):
        re, im = s[i, 0, w], s[i, 1, w]
        s[i, 0, w] = re * s[j, 0, w] - im * s[j, 1, w]
        s[i, 1, w] = re * s[j, 1, w] + im * s[j, 0, w]
"""
PRODUCTS = """
import numpy as np
from loops.cache import kernel
from loops.helper import multiply

@kernel(error_model="numpy", fastmath={"contract"})
def total(x, n):
    s = np.empty((n, 2, 128), np.float32)
    for i in range(n):
        for w in range(128):
            s[i, 0, w], s[i, 1, w] = x / (1 + i + w), x / (3 + i + w)
        for j in range(i):
            multiply(s, i, j)
    y = 0.0
    for w in range(128):
        y += s[n - 1, 0, w]
    return y
"""
RUN = "from loops.loop import total; y = total(1.0, 4); s = total.stats; "
RUN += "print(y, sum(s.cache_hits.values()), sum(s.cache_misses.values()))"


class Package:
    """A package of a loop and, in another file, its helper, compiled with the project's cache."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "loops"
        self.folder.mkdir()
        imported = "from reknob.afx.kernels.numba_cpu import config"
        source = Path(cache.__file__).read_text()
        assert imported in source
        # numba's own module: the project's folders import torch, which takes longer than all that is compiled here.
        (self.folder / "cache.py").write_text(source.replace(imported, "from numba.core import config"))
        (self.folder / "__init__.py").touch()
        self.weigh_by(2.0)

    def write(self, helper: str, loop: str) -> None:
        (self.folder / "helper.py").write_text(helper)
        (self.folder / "loop.py").write_text(loop)

    def weigh_by(self, factor: float) -> None:
        self.write(HELPER.replace("FACTOR", str(factor)), LOOP)

    def start(self) -> subprocess.Popen:
        environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
        return subprocess.Popen(
            [sys.executable, "-c", RUN], cwd=self.root, env=environment, stdout=subprocess.PIPE, text=True
        )

    @staticmethod
    def result(process: subprocess.Popen) -> tuple[float, int, int]:
        """The result of a process, and its number of cache hits and misses."""
        value, hits, misses = process.communicate(timeout=60)[0].split()
        assert process.returncode == 0
        return float(value), int(hits), int(misses)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


def test_processes_compile_a_loop_once_until_a_helper_in_another_file_changes(package: Package) -> None:
    at_once = [package.start(), package.start()]
    assert sorted(map(package.result, at_once)) == [(8.0, 0, 1), (8.0, 1, 0)]
    package.weigh_by(3.0)
    assert package.result(package.start()) == (12.0, 0, 1)


def test_the_process_that_compiles_a_loop_rounds_like_those_that_load_it(package: Package) -> None:
    package.write(PRODUCT, PRODUCTS)
    compiled, loaded = (package.result(package.start()) for _ in range(2))
    assert (compiled[1:], loaded[1:]) == ((0, 1), (1, 0))
    assert compiled[0] == loaded[0]


@pytest.fixture
def parents(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Possible parents of the folder."""
    places: list[Path] = []
    monkeypatch.setattr(cache, "_parents", lambda: iter(places))
    return places


def test_the_first_writable_folder_is_used_and_logged(
    parents: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parents += [NOWHERE, tmp_path / "second", tmp_path / "third"]
    with caplog.at_level(logging.INFO):
        assert cache.folder.__wrapped__() == tmp_path / "second" / cache.NAME / cache.key()
    (message,) = caplog.messages
    assert "second" in message
    assert str(NOWHERE) in message
    assert not (tmp_path / "third").exists()


def test_without_any_folder_loops_are_compiled_in_memory(
    parents: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parents += [NOWHERE]
    assert cache.folder.__wrapped__() is None
    assert "NUMBA_CACHE_DIR" in caplog.text
    monkeypatch.setattr(cache, "folder", lambda: None)
    assert cache.kernel()(lambda x: x + 1)(2) == 3
    assert kernels.compiled() is False


def test_the_parents_are_the_setting_the_package_the_home_and_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache.numba.config, "CACHE_DIR", str(tmp_path / "given"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    given, beside, home, temporary = cache._parents()
    assert given == tmp_path / "given"
    assert beside == Path(cache.__file__).parent / "__pycache__"
    assert home == tmp_path / "home"
    assert temporary.parent == tmp_path
    monkeypatch.setattr(cache.numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(cache.Path, "expanduser", lambda path: path)  # as where there is no such user either
    assert [*cache._parents()] == [beside, temporary]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files")
def test_a_temporary_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    own = cache._private(tmp_path)
    assert own.parent == tmp_path
    assert own.stat().st_mode & 0o077 == 0
    own.chmod(0o777)
    assert not cache._private(tmp_path).exists()
    own.rmdir()
    own.symlink_to(tmp_path)
    assert not cache._private(tmp_path).exists()


def test_unused_folders_of_other_sources_are_deleted(tmp_path: Path) -> None:
    names = {"old": "0" * 16, "recent": "1" * 16, "foreign": "notes"}
    for name in names.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "loop.nbc").touch()
    long_ago = time.time() - (cache.UNUSED_DAYS + 1) * 24 * 3600
    os.utime(tmp_path / names["old"], (long_ago, long_ago))
    os.utime(tmp_path / names["foreign"], (long_ago, long_ago))
    own = cache._open(tmp_path, "2" * 16)
    assert {path.name for path in tmp_path.iterdir()} == {names["recent"], names["foreign"], own.name}
    os.utime(own, (long_ago, long_ago))
    assert cache._open(tmp_path, own.name).stat().st_mtime > long_ago + 1000


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    cache._warn_once.cache_clear()
    return tmp_path


def test_compiled_looks_in_the_folder_in_use(kept: Path) -> None:
    assert kernels.compiled() is False
    (kept / "loops.forward-0.nbc").touch()
    assert kernels.compiled() is False, "a render compiles the loops without gradients"
    (kept / "loops.backward-0.nbc").touch()
    assert kernels.compiled() is True


def test_a_full_disk_is_one_warning(
    kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    double, triple = cache.kernel()(lambda x: 2 * x), cache.kernel()(lambda x: 3 * x)
    assert (double(2), triple(2)) == (4, 6)
    assert len(caplog.messages) == 1
    assert "No space left" in caplog.text


def test_a_lock_that_is_never_released_times_out(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LONGEST_WAIT", 0.1)
    loop = cache.kernel()(lambda x: x - 1)
    with FileLock(kept / f"{loop._cache.name}.lock"):
        assert loop(2) == 1


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes({"empty": b"", "truncated": content[:-10], "a bit flipped": flipped}[how])


@pytest.mark.parametrize("how", ["empty", "truncated", "a bit flipped"])
def test_a_damaged_file_is_logged_and_compiled_anew(kept: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    def add(a: float, b: float) -> float:
        return a + b

    def call() -> tuple[int, int]:
        loop = cache.kernel()(add)
        assert loop(1.0, 2.0) == 3.0
        return sum(loop.stats.cache_hits.values()), sum(loop.stats.cache_misses.values())

    assert [call(), call()] == [(0, 1), (1, 0)]
    (path,) = kept.glob("*.nbc")
    damage(path, how)
    assert [call(), call()] == [(0, 1), (1, 0)]
    assert caplog.messages == [f"{path} is damaged: compiling it anew"]
