"""The HTML files of pages: templates filled with styles, scripts and data, so that each file is complete."""

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

HERE = Path(__file__).parent


def fill(
    body: str, title: str, data: Mapping[str, Any], styles: Sequence[str], scripts: Sequence[str], sources: str = ""
) -> str:
    """A page as one HTML document, with files of this folder and data inside.

    Args:
        body: the file name of what `frame.html` holds.
        title: of the page.
        data: what JSON holds, null for a number that is not finite; the text "audio" of its `tracks` stands apart, so
            that a browser decodes it when needed.
        styles, scripts: file names, in order.
        sources: what the page may load besides, as in the header Content-Security-Policy.
    """
    content, audio = dict(data), ""
    if "tracks" in content:
        content["tracks"] = [{key: each[key] for key in each if key != "audio"} for each in data["tracks"]]
        audio = "\n".join(
            f'<script type="text/plain" id="audio-{html.escape(each["key"])}">{each["audio"]}</script>'
            for each in data["tracks"]
        )
    parts = {
        "sources": html.escape(sources),
        "body": (HERE / body).read_text(encoding="utf-8"),
        "title": html.escape(title),
        "css": "\n".join((HERE / name).read_text(encoding="utf-8") for name in styles),
        "js": "\n".join((HERE / name).read_text(encoding="utf-8") for name in scripts),
        # Names come from strangers' files: no text of theirs may end the element.
        "data": json.dumps(_finite(content), allow_nan=False).replace("<", "\\u003c"),
        "audio": audio,
    }
    # Split first: what is filled in may hold braces of its own.
    first, *rest = (HERE / "frame.html").read_text(encoding="utf-8").split("{{")
    filled = [first]
    for piece in rest:
        name, _, after = piece.partition("}}")
        filled += [parts[name], after]
    return "".join(filled)


def link(path: Path, beside: Path) -> str:
    """A relative address of a file in a page of the folder `beside`, so that both may be moved together."""
    # As bytes: a name in another encoding than UTF-8 is no text.
    return quote(os.fsencode(Path(os.path.relpath(path.resolve(), beside.resolve())).as_posix()))


def _finite(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON holds it, with null for every number that is not finite."""
    return json.loads(json.dumps(content), parse_constant=lambda _: None)
