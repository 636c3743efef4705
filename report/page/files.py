"""The HTML files of pages: templates filled with styles, scripts and data, so that each file is complete."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def fill(template: str, title: str, data: Mapping[str, Any], styles: Sequence[str], scripts: Sequence[str]) -> str:
    """A template of this folder as one HTML document, with files of this folder and data inside.

    Args:
        template: its file name.
        title: of the page.
        data: what JSON holds; the text "audio" of its `tracks` stands apart, so that a browser decodes it when needed.
        styles, scripts: file names, in order.
    """
    content, audio = dict(data), ""
    if "tracks" in content:
        content["tracks"] = [{key: each[key] for key in each if key != "audio"} for each in data["tracks"]]
        audio = "\n".join(
            f'<script type="text/plain" id="audio-{html.escape(each["key"])}">{each["audio"]}</script>'
            for each in data["tracks"]
        )
    parts = {
        "title": html.escape(title),
        "css": "\n".join((HERE / name).read_text(encoding="utf-8") for name in styles),
        "js": "\n".join((HERE / name).read_text(encoding="utf-8") for name in scripts),
        # Names come from strangers' files: no text of theirs may end the element.
        "data": json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        "audio": audio,
    }
    # Split first: what is filled in may hold braces of its own.
    first, *rest = (HERE / template).read_text(encoding="utf-8").split("{{")
    filled = [first]
    for piece in rest:
        name, _, after = piece.partition("}}")
        filled += [parts[name], after]
    return "".join(filled)
