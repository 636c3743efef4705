"""What a program does before it loads any library: it needs Python alone."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

MISTAKE, INTERRUPTED = 2, 130
ROOT = Path(__file__).resolve().parent.parent


def prepare() -> None:
    """Sets what libraries read as they are loaded; a program that cannot be loaded says why in one line."""
    # Waiting threads sleep; those that spin take the cores from threads that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.excepthook = _leave


def why_not_loaded(error: BaseException) -> str | None:
    """One line on a library that is missing or does not fit into memory; None for other errors."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if (ROOT / package).is_dir() or (ROOT / f"{package}.py").exists():
            return None
        made = "" if (ROOT / ".venv" / "bin" / "python").exists() else "`make demo` and then "
        ways = f"run {made}`. .venv/bin/activate`, or pip install -r {_requirements(package)}"
        return f"{package} is not installed in this Python ({sys.executable}): {ways}"
    if isinstance(error, (ImportError, OSError)) and "failed to map segment" in str(error):
        return f"not enough memory to load a library ({str(error).partition(':')[0]}): raise the limit (ulimit -v)"
    return None


def _requirements(package: str) -> str:
    """The file that lists a package; those of another name than their module's are all in the first."""
    extra = [path for path in ROOT.glob("requirements-*.txt") if f"\n{package}==" in f"\n{path.read_text()}"]
    return extra[0].name if extra else "requirements.txt"


def _leave(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """What is left of a program whose `main` was not reached."""
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
    """An error and those that led to it: libraries turn what interrupts their loading into errors of their own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
