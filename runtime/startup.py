"""What a program does before it imports any library; uses the standard library only."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

MISTAKE, INTERRUPTED = 2, 130
ROOT = Path(__file__).resolve().parent.parent
PROGRAM_FOLDERS = ("", "scripts", "benchmarks")


def prepare() -> None:
    """Sets the environment that libraries read on import; a failed import becomes one line on stderr."""
    # Waiting OpenMP threads sleep: spinning ones would occupy cores that other threads need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.excepthook = _leave
    program = getattr(sys.modules["__main__"], "__file__", None) or ""
    is_ours = os.path.dirname(os.path.realpath(program)) in [str(ROOT / folder) for folder in PROGRAM_FOLDERS]
    if is_ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # KeyboardInterrupt during an import would surface as an ImportError or a crash of the library.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


def why_not_loaded(error: BaseException) -> str | None:
    """One line on a library that is not installed or does not fit into memory; None for other errors."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if (ROOT / package).is_dir() or (ROOT / f"{package}.py").exists():
            return None  # a module of the project: a fault, not a missing requirement
        install = "" if (ROOT / ".venv" / "bin" / "python").exists() else "`make demo` and then "
        ways = f"run {install}`. .venv/bin/activate`, or pip install {_requirements(package)}"
        return f"{package} is not installed in this Python ({sys.executable}): {ways}"
    if isinstance(error, MemoryError):
        return "not enough memory to load the libraries: raise the limit (ulimit -v)"
    if isinstance(error, (ImportError, OSError)):
        for reason in map(str, _chain(error)):  # llvmlite raises an error of its own, which does not say it
            if "failed to map segment" in reason:
                return f"not enough memory to load a library ({reason.partition(':')[0]}): raise the limit (ulimit -v)"
    return None


def _requirements(package: str) -> str:
    """What pip installs for a module: a file of requirements that lists its package, or the project with its own."""
    extra = [path for path in ROOT.glob("requirements-*.txt") if f"\n{package}==" in f"\n{path.read_text()}"]
    return f"-r {extra[0].name}" if extra else "."


def _leave(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """The exception hook: exits with one line and a status where an import failed or was interrupted."""
    if any(isinstance(link, KeyboardInterrupt) for link in _chain(error)):
        os._exit(INTERRUPTED)
    line = why_not_loaded(error)
    if line is None:
        sys.__excepthook__(kind, error, traceback)
        return
    text = f"{os.path.basename(sys.argv[0])}: {line}\n"
    sys.stderr.write(text.encode("ascii", "backslashreplace").decode())
    sys.stderr.flush()
    os._exit(MISTAKE)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes: libraries wrap an interrupt during their import into errors of their own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


prepare()
