"""How the project is laid out: who imports whom, where things may be named, how long files and functions are."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import reknob

ROOT = Path(__file__).parents[1]
# kernels <- functional <- afx <- losses, data <- formats <- fitting | estimation | analysis <- report <- app, and
# fitting <- fleet; all <- programs: each may import those to its left, and runtime, which imports nothing of ours.
EFFECTS = {"runtime", "afx.kernels", "afx.functional", "afx"}
FORMATS = EFFECTS | {"data", "formats"}
PARTS = FORMATS | {"losses", "encoders", "fitting", "estimation", "analysis", "transfer"}
MAY_IMPORT = {
    "runtime": set(),
    "afx.kernels": {"runtime"},
    "afx.functional": {"runtime", "afx.kernels"},
    "afx": EFFECTS,
    "encoders": {"runtime"},
    "losses": {"runtime", "afx.kernels", "afx.functional"},
    "data": EFFECTS,
    "formats": FORMATS,
    "fitting": FORMATS | {"losses"},
    "estimation": FORMATS | {"losses", "encoders"},
    "analysis": FORMATS,
    "transfer": FORMATS | {"losses", "analysis"},
    "report": PARTS,
    "app": PARTS | {"report"},
    "fleet": FORMATS | {"fitting"},
    "programs": PARTS | {"report", "app", "fleet", "reknob"},
    "reknob": PARTS | {"report"},
    "benchmarks": PARTS | {"report", "fleet"},
    "docs": PARTS | {"report"},
}
FOLDERS = (
    *("reknob", "runtime", "afx", "encoders", "losses", "data", "formats", "fitting", "estimation", "analysis"),
    *("transfer", "report", "app", "fleet", "scripts", "benchmarks", "docs", "tests"),
)
PROGRAM_FOLDERS = ("scripts", "benchmarks", "docs")
FILE_LINES, BODY_LINES, KERNEL_BODY_LINES = 400, 65, 100
GOLDEN_BYTES = 15e6
# What reads command lines for several programs.
SHARED = {"runtime/settings.py", "runtime/arguments.py", "estimation/arguments.py"}


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return found + (sorted(ROOT.glob("*.py")) if folders == FOLDERS else [])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), name_of(path))


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


def owner(module: str) -> str:
    """The row of MAY_IMPORT that a module of ours belongs to; "" for anybody else's."""
    parts = module.split(".")
    two = ".".join(parts[:2])
    if two in MAY_IMPORT:
        return two
    if parts[0] in MAY_IMPORT:
        return parts[0]
    is_program = parts[0] == "scripts" or (ROOT / f"{parts[0]}.py").exists()
    return "programs" if is_program else ""


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module, or name in a module, that a file imports, in full: "afx.kernels.fdn_response"."""
    package, found = list(path.relative_to(ROOT).parts[:-1]), []
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*above, *([node.module] if node.module else [])])
            found += [f"{stem}.{alias.name}" for alias in node.names]
    return tuple(module.removeprefix("reknob.") for module in found)


def test_imports_point_one_way() -> None:
    wrong = []
    for path in files(*FOLDERS):
        if path.is_relative_to(ROOT / "tests"):
            continue
        mine = owner(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for module in imports(path):
            theirs = owner(module)
            inside = theirs == mine and mine != "programs"
            if theirs and not inside and theirs not in MAY_IMPORT[mine]:
                wrong.append(f"{name_of(path)} imports {module}")
    assert wrong == []


def test_the_rules_of_imports_name_what_breaks_them() -> None:
    assert owner("afx.kernels.fdn_response") == "afx.kernels"
    assert owner("afx.eq.Peak") == "afx"
    assert owner("losses.stft") == "losses"
    assert owner("scripts.render") == "programs"
    assert owner("numpy.linalg") == ""
    assert "afx.functional.fft.inverse" in imports(ROOT / "afx" / "functional" / "convolve.py")
    assert "afx.effect.Effect" in imports(ROOT / "afx" / "chain.py")


def test_back_ends_are_reached_through_the_door_of_the_kernels_only() -> None:
    behind = ("afx.kernels.numba_cpu", "afx.kernels.reference", "afx.kernels.triton_gpu")
    outside = [path for path in files(*FOLDERS[:-3]) if not path.is_relative_to(ROOT / "afx" / "kernels")]
    assert [f"{name_of(p)} imports {m}" for p in outside for m in imports(p) if m.startswith(behind)] == []


def importers(package: str) -> set[str]:
    """Files outside the tests that import a package of somebody else's."""
    own = [path for path in files(*FOLDERS) if not path.is_relative_to(ROOT / "tests")]
    return {name_of(path) for path in own if any(module.split(".")[0] == package for module in imports(path))}


def test_numba_and_triton_are_named_below_the_kernels_only() -> None:
    assert {name for name in importers("numba") | importers("triton") if not name.startswith("afx/kernels/")} == set()


def test_torchaudio_is_imported_in_one_file_and_never_reads_or_writes_audio() -> None:
    assert importers("torchaudio") == {"afx/functional/torchaudio_import.py"}
    calls = [
        f"{name_of(path)}:{node.lineno}"
        for path in files(*FOLDERS)
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and node.attr in ("load", "save", "info")
        if isinstance(node.value, ast.Name) and node.value.id == "torchaudio"
    ]
    assert calls == []


def is_program(name: str) -> bool:
    inside = name.startswith(tuple(f"{folder}/" for folder in PROGRAM_FOLDERS))
    return "/" not in name or inside or name == "reknob/cli.py"


def test_command_lines_are_read_by_programs_and_what_they_share_only() -> None:
    assert {name for name in importers("argparse") if not is_program(name) and name not in SHARED} == set()


def test_only_programs_print() -> None:
    prints = [
        f"{name_of(path)}:{node.lineno}"
        for path in files(*FOLDERS)
        if not is_program(name_of(path))
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert prints == []


def test_a_file_says_what_it_holds_and_stays_short() -> None:
    texts = {path: path.read_text() for path in files(*FOLDERS)}
    says = {path: text.startswith('"""') and ast.get_docstring(tree_of(path)) for path, text in texts.items()}
    unsaid = [name_of(path) for path, docstring in says.items() if not docstring]
    long = [name_of(path) for path, text in texts.items() if len(text.splitlines()) > FILE_LINES]
    assert (unsaid, long) == ([], [])


def test_functions_stay_short() -> None:
    long = []
    for path in files(*FOLDERS):
        most = KERNEL_BODY_LINES if path.is_relative_to(ROOT / "afx" / "kernels") else BODY_LINES
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                long += [f"{name_of(path)}: {node.name} has {lines} lines"] if lines > most else []
    assert long == []


def programs() -> list[Path]:
    found = [*files(*FOLDERS[:-1]), *sorted(ROOT.glob("*.py"))]
    return [path for path in found if "\nif __name__ ==" in path.read_text()]


def test_a_program_runs_under_the_runner_which_it_imports_first() -> None:
    assert [name_of(path) for path in programs() if not is_run(path)] == []


def is_run(path: Path) -> bool:
    (main,) = (node for node in tree_of(path).body if isinstance(node, ast.FunctionDef) and node.name == "main")
    is_first = imports(path)[0].startswith("runtime.program.")
    ends = path.read_text().endswith('if __name__ == "__main__":\n    sys.exit(main())\n')
    return is_first and ends and [d.id for d in main.decorator_list if isinstance(d, ast.Name)] == ["program"]


def test_ruff_finds_nothing() -> None:
    pytest.importorskip("ruff")
    run = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_golden_numbers_stay_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "tests" / "golden").rglob("*") if path.is_file()) < GOLDEN_BYTES


def test_the_public_names_are_one_list() -> None:
    """What `import reknob` loads when asked, what it lists, and what checkers and editors see."""
    tree = tree_of(ROOT / "reknob" / "__init__.py")
    (typed,) = (node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    imports_ = [node for node in ast.walk(typed) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in imports_ for alias in node.names}
    assert names == {*(f"reknob.{module}.{name}" for name, module in reknob._PUBLIC.items()), "reknob.losses"}
    assert sorted(name.rpartition(".")[2] for name in names) == sorted(reknob.__all__)
