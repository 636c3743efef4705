"""Adds to the site the pages and images that lie outside docs/: cards, proxy card, CONTRIBUTING and CHANGELOG."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = (
    *("CONTRIBUTING.md", "CHANGELOG.md", "afx/weights/proxy.md", "benchmarks/scaling.png", "checkpoints/learning.png"),
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "checkpoints").glob("*.md"))),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files under the paths that they have in the repository."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Points links at where a file lies in the site, whose root is docs/: a link that works in the repository does too.

    A link to a file that is no page becomes its path.
    """
    outside = page.file.src_uri in OUTSIDE
    up = "../" * page.file.src_uri.count("/")

    def moved(match: re.Match) -> str:
        text, target = match.groups()
        if outside:
            return f"{text}({target.replace(f'{up}docs/', up)})" if "docs/" in target else match.group()
        path = target.removeprefix("../").partition("#")[0]
        if path in OUTSIDE:
            return f"{text}({target.removeprefix('../')})"
        return f"`{path}`" if target.startswith("../") else match.group()

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", moved, markdown)
