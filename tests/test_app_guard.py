"""Whom the local web page answers: its own pages, in the browser of the user who started it."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from reknob.app.server import Page, build_app
from scripts import app as program

PORT = 8765
ORIGIN = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    page = Page(tmp_path_factory.mktemp("app"))
    yield page
    page.close()


def client_of(page: Page, port: int = PORT) -> TestClient:
    """A browser that has opened the page by its address."""
    site = "http://127.0.0.1" if port == 80 else ORIGIN
    return TestClient(build_app(page, port), base_url=site, cookies={f"reknob-{port}": page.token})


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {"host": "evil.example"}),  # DNS rebinding
        ("GET", "/", {"host": f"evil.example:{PORT}"}),
        ("GET", "/api/state", {"host": "127.0.0.1"}),  # another port
        ("GET", "/api/state", {"origin": "http://evil.example"}),
        ("GET", "/api/state", {"sec-fetch-site": "cross-site"}),
        ("POST", "/api/checks", {"origin": "http://evil.example"}),
        ("POST", "/api/checks", {"origin": "null"}),
        ("POST", "/api/checks", {"origin": f"http://localhost:{PORT + 1}"}),
        ("POST", "/api/checks", {"origin": ORIGIN, "sec-fetch-site": "same-site"}),
        ("POST", "/api/checks", {}),  # a form of another page, in a browser without Origin
    ],
)
def test_requests_of_other_pages_are_refused(page: Page, method: str, path: str, headers: dict[str, str]) -> None:
    before = len(page.queue.all())
    answer = client_of(page).request(method, path, headers=headers)
    assert answer.status_code == 403
    assert len(page.queue.all()) == before


def test_the_page_is_served_to_this_machine_with_a_strict_policy(page: Page) -> None:
    client = client_of(page)
    start = client.get("/", headers={"host": f"localhost:{PORT}", "sec-fetch-site": "cross-site"})  # a link to it
    assert start.status_code == 200
    assert "default-src 'none'; script-src 'self'" in start.headers["content-security-policy"]
    assert start.headers["x-content-type-options"] == "nosniff"
    # Browsers leave out the port 80.
    assert client_of(page, 80).get("/").status_code == 200
    for path in ("/look.css", "/charts.css", "/charts.js", "/player.js", "/static/main.js", "/static/worklet.js"):
        assert client.get(path).status_code == 200


def test_another_user_of_the_machine_needs_the_token(page: Page) -> None:
    before = len(page.queue.all())
    for cookies in ({}, {f"reknob-{PORT}": "guessed"}, {f"reknob-{PORT + 1}": page.token}):
        stranger = TestClient(build_app(page, PORT), base_url=ORIGIN, headers={"origin": ORIGIN}, cookies=cookies)
        for path in ("/", "/api/state", "/look.css", f"/api/state?token={page.token}", "/?token=", "/?token=guessed"):
            assert stranger.get(path).status_code == 401
        assert stranger.post("/api/checks", json={"dry": "demo-dry", "wet": "demo-wet"}).status_code == 401
    assert len(page.queue.all()) == before
    answer = stranger.get("/", params={"token": page.token}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/"), "the address bar keeps no token"
    assert "HttpOnly" in answer.headers["set-cookie"] and "SameSite=lax" in answer.headers["set-cookie"]
    assert stranger.get("/api/state").status_code == 200


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py"])
def test_no_path_of_the_browser_leads_out_of_the_static_files(page: Page, path: str) -> None:
    assert client_of(page).get(path).status_code == 404


def test_the_token_reaches_the_browser_by_a_file_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []

    async def serve(*_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(Page, "warm_up", lambda _: None)
    monkeypatch.setattr("uvicorn.Server.serve", serve)
    monkeypatch.setattr(program.webbrowser, "open", lambda uri: opened.append(Path(uri[7:]).read_text()))
    assert program.main(["--port", "0", "--log-dir", str(tmp_path / "logs")]) == 0
    (folder,) = (tmp_path / "logs").iterdir()
    address = capsys.readouterr().out.split()[0]
    assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/\?token=[\w-]{32}", address)
    assert f'url={address}"' in opened[0]
    assert folder.stat().st_mode & 0o077 == 0 and list(folder.iterdir()) == []
