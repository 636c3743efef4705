"""Serves a web page on this machine: fit a pair, estimate a recording, browse presets and hear them while they change.

    python scripts/app.py                          then open the address that it prints
    python scripts/app.py my_presets               also shows a preset set of your own
    python scripts/app.py --port 8123 --log-dir logs/app

The page is for this machine and its user alone: it listens at 127.0.0.1, refuses requests of other web pages, and opens
only by the address with the token that is printed. What it writes, recordings that were dropped and runs, lies in a
folder of its own below --log-dir. Ctrl-C stops it, and a fit that runs ends as one in a terminal does: what it reached
is kept. It needs an extra: pip install 'reknob[app]'.
"""

from reknob.runtime.program import program

import argparse
import asyncio
import socket
import sys
import threading
import webbrowser
from datetime import datetime
from pathlib import Path

from reknob.runtime.arguments import Parser, file_path, input_file, integer
from reknob.runtime.errors import UsageError
from reknob.runtime.files import SHIPPED, check_output_folder, write_text
from reknob.runtime.memory import keep_freed_memory

HOST, PORT = "127.0.0.1", 8765
OPEN = "open.html"
GRACE_S = 3  # for requests under way when the server is stopped
SETS = ("own", "internal", "medleydb")


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    try:
        import uvicorn

        from reknob.app.server import Page, build_app
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        remedy = "pip install starlette uvicorn (the extra of reknob is called app)"
        raise UsageError(f"{error.name} is not installed: {remedy}") from None
    keep_freed_memory()
    check_output_folder(args.log_dir, f"--log-dir {args.log_dir}")
    shipped = [SHIPPED / "presets" / name for name in SETS if (SHIPPED / "presets" / name).is_dir()]
    with listening(args.port) as listener:
        folder = args.log_dir / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        page = Page(folder, [*args.presets, *shipped])
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # for this user alone, as are the recordings in it
        port = listener.getsockname()[1]
        address = f"http://{HOST}:{port}/?token={page.token}"
        print(f"{address}  (Ctrl-C stops; what is written lies in {folder})", flush=True)
        threading.Thread(target=page.warm_up, daemon=True).start()
        if not args.no_browser:
            webbrowser.open(opening(folder / OPEN, address).resolve().as_uri())
        try:
            config = uvicorn.Config(
                build_app(page, port), log_level="warning", server_header=False, timeout_graceful_shutdown=GRACE_S
            )
            asyncio.run(uvicorn.Server(config).serve([listener]))
        finally:
            (folder / OPEN).unlink(missing_ok=True)
            page.close()
    return 0


def opening(path: Path, address: str) -> Path:
    """Writes a page that opens an address: as an argument of the browser, other users would see the token."""
    write_text(path, f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={address}">\n')
    return path


def listening(port: int) -> socket.socket:
    """A socket that listens at a port of this machine alone; UsageError where the port is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        # At once: a browser that is quicker than the server then waits, and is not refused.
        listener.listen()
    except OSError as error:
        listener.close()
        raise UsageError(f"--port {port}: {error.strerror}; give another, or 0 for any that is free") from None
    return listener


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__, has_result=False)  # it prints its address only, which --quiet would hide
    p.add_argument("presets", type=input_file, nargs="*", metavar="PRESETS", help="folders of further preset sets")
    p.add_argument("--port", type=integer(0, 65535), default=PORT, help="port (default %(default)s; 0: any)")
    p.add_argument("--log-dir", type=file_path, default=Path("logs/app"), metavar="FOLDER", help="default %(default)s")
    p.add_argument("--no-browser", action="store_true", help="do not open the page in the browser")
    return p


if __name__ == "__main__":
    sys.exit(main())
