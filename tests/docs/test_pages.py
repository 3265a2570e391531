"""What the pages show works: code, commands, site files and links."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import anchors, blocks, links, pages, prose
from tests.errors import naming

ROOT = Path(__file__).resolve().parents[2]
PAGES = pages(ROOT)
PLAY = Path(__file__).with_name("play.py")
SITE_TABLES = {"site", "compute", "qpu"}

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES]
)


def _plays(page: Path, *, slow: bool) -> bool:
    """Whether the page has something to run, within or beyond the quick part."""
    known = [b for b in blocks(page.read_text(encoding="utf-8")) if not b.is_skipped]
    playable = [b for b in known if b.option("file") or b.language == "python" or b.commands()]
    return any(b.is_slow for b in playable) if slow else any(not b.is_slow for b in playable)


README = ROOT / "README.md"
WHOLE = [page for page in PAGES if _plays(page, slow=True)]
QUICK = [page for page in PAGES if _plays(page, slow=False) and page not in WHOLE]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")  # each command would start one of its own
@pytest.mark.timeout(1800)
def test_the_readme_plays(tmp_path: Path) -> None:
    _play(README, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", QUICK, ids=[str(page.relative_to(ROOT)) for page in QUICK])
def test_a_page_plays(page: Path, tmp_path: Path) -> None:
    _play(page, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", WHOLE, ids=[str(page.relative_to(ROOT)) for page in WHOLE])
def test_a_page_plays_with_its_long_parts(page: Path, tmp_path: Path) -> None:
    _play(page, tmp_path, "--slow")


@each_page
def test_site_files_load(page: Path, tmp_path: Path) -> None:
    from orchestrator.config.loading import load_site

    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language != "toml" or block.is_skipped:
            continue
        tables = tomllib.loads(block.text)
        if tables and set(tables) <= SITE_TABLES:
            path = tmp_path / f"line-{block.line}.toml"
            path.write_text(block.text, encoding="utf-8")
            load_site(path)


@each_page
def test_what_is_not_run_says_why(page: Path) -> None:
    silent = [
        f"line {block.line}"
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.is_skipped and not block.reason
    ]
    assert not silent, f"{page.name}: `norun` without a reason: {silent}"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for line, target in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue  # another site's; the tests use no network
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            broken.append(f"line {line}: no {target}")
        elif anchor and path.suffix == ".md" and anchor not in _anchors_of(path):
            broken.append(f"line {line}: no heading {anchor!r} in {path.name}")
    assert not broken, f"{page.name}: " + "; ".join(broken)


def test_every_page_is_linked_from_another() -> None:
    reached = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for _, target in links(page.read_text(encoding="utf-8"))
        if "://" not in target and not target.startswith("#")
    }
    lost = [
        str(page.relative_to(ROOT))
        for page in PAGES
        if page.name != "README.md" and page.resolve() not in reached
    ]
    assert not lost, f"no page links to {lost}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_reader_of_pages() -> None:
    text = (
        "# A `b` & c\n[x](y.md#z) `[no](n.md)`\n"
        "```python slow\n# not a heading\na = 1\n```\n"
        "```console norun needs a QPU\n$ hpcqc run a \\\n    --qpu b  # why\nout\n$ ls\n```\n"
        "```toml file=x/hpcqc.toml\n[site]\n```\n# A `b` & c\n![i](j.png)\n"
    )
    python, console, toml = blocks(text)
    assert (python.language, python.is_slow, python.line) == ("python", True, 4)
    assert console.reason == "needs a QPU"
    assert console.commands() == ["hpcqc run a --qpu b  # why", "ls"]
    assert toml.option("file") == "x/hpcqc.toml"
    assert links(text) == [(2, "y.md#z"), (17, "j.png")]
    assert anchors(text) == {"a-b--c", "a-b--c-1"}
    assert all("heading" not in line for _, line in prose(text))


def test_a_page_that_lies_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\na = 1\n```\n\n```python\nassert a == 2\n```\n")
    with pytest.raises(pytest.fail.Exception, match=r"line 8"):
        _play(page, tmp_path)
    page.write_text("```console\n$ python -c 'raise SystemExit(3)'\n```\n")
    with pytest.raises(pytest.fail.Exception, match=naming("page.md:2", 3, 0)):
        _play(page, tmp_path)
    page.write_text("```sh exit=3\npython -c 'raise SystemExit(3)'\n```\n")
    _play(page, tmp_path)


def _anchors_of(path: Path) -> set[str]:
    return anchors(path.read_text(encoding="utf-8"))


def _play(page: Path, folder: Path, *options: str) -> None:
    empty = folder / "page"
    empty.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, str(PLAY), str(page), *options],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{page}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}", pytrace=False)
    assert "Traceback" not in done.stderr, done.stderr[-6000:]
