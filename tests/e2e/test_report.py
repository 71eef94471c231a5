"""The report of a run that lost a rank, in a real browser: nothing is wider than a phone, nothing is complained of,
nothing is asked of anybody."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.command import NOT_TRACKED, TWO, WORDS, Running, done

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr")
PROBE = "<script>onload = () => {{ document.title = {question} }}</script></body>"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; `make chromium-here` installs one"),
]


def browse(*words: str) -> tuple[bytes, str]:
    """What Chromium says on stdout, and of the page's own troubles. Names are resolved to nowhere."""
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND"
    shown = subprocess.run([str(CHROMIUM), *FLAGS, nowhere, *words], capture_output=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout, "\n".join(line for line in shown.stderr.decode().splitlines() if "CONSOLE" in line)


def answer(page: Path, width: int, question: str) -> str:
    """What a script finds in the page, as it is laid out in a window of this width."""
    text = page.read_text()
    assert "Content-Security-Policy" in text
    asking = page.with_name("asking.html")
    asking.write_text(re.sub(r'<meta http-equiv="[^>]*>', "", text).replace("</body>", PROBE.format(question=question)))
    dom, _ = browse(f"--window-size={width},900", "--dump-dom", f"file://{asking}")
    found = re.search(r"<title>(.*?)</title>", dom.decode())
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of two attempts."""
    folder = tmp_path_factory.mktemp("reported")
    running = Running(folder, *WORDS, *TWO, *NOT_TRACKED, "train.epochs=15")
    running.reach(120)
    os.kill(running.processes()[1][1].pid, signal.SIGKILL)
    assert running.wait() == 0, running.said.read_text()
    return Path(done(folder, "report", "run").strip())


def test_a_browser_has_nothing_to_complain_of(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    _, complaints = browse("--window-size=1280,2400", f"--screenshot={picture}", f"file://{page}")
    assert complaints == ""
    assert picture.stat().st_size > 50_000  # an empty page is a few kB
    broken = tmp_path / "broken.html"  # it would have been heard
    broken.write_text(page.read_text().replace("</body>", '<img src="https://example.org/x.png"></body>'))
    assert "Content Security Policy" in browse(f"--screenshot={picture}", f"file://{broken}")[1]


@pytest.mark.parametrize("width", [390, 820])
def test_nothing_sticks_out(page: Path, width: int) -> None:
    """The body is made as wide as the screen: a window of Chromium is never narrower than 500."""
    question = f"(document.body.style.width = '{width}px', document.body.scrollWidth)"
    assert answer(page, 1280, question) == str(width)


def test_what_the_browser_draws_is_the_run(page: Path) -> None:
    question = (
        "['path.r0', 'path.mark', 'rect.on', 'path.bad'].map(s => [...document.querySelectorAll(s)]"
        ".filter(e => e.getBoundingClientRect().width + e.getBoundingClientRect().height > 1).length).join()"
    )
    curves, marks, attempts, faults = map(int, answer(page, 1280, question).split(","))
    assert curves >= 8
    assert marks >= 5  # the second attempt, in each curve by step
    assert (attempts, faults) == (2, 1)
    assert "rank 1" in page.read_text()


def test_it_prints(page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    browse("--no-pdf-header-footer", f"--print-to-pdf={paper}", f"file://{page}")
    pages = len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes()))
    assert 2 <= pages <= 10
