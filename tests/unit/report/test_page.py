"""What a report says of a real run, and that it needs nothing but itself."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainkit.audit.journal import Journal
from trainkit.cli.main import main
from trainkit.report.differences import common_steps, first_loss, keys, versions
from trainkit.runfolder import RunFolder, append_line

Capture = pytest.CaptureFixture[str]


class Page(HTMLParser):
    """Texts, tags that do not match, and all that names another file."""

    VOID = ("meta", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.titles: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        assert tag not in ("script", "iframe", "object")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        (self.titles if self._open[-1:] == ["title"] else self.texts).append(data)


def report(capsys: Capture, *words: str) -> str:
    assert main(["report", *words]) == 0
    return Path(capsys.readouterr().out.strip()).read_text()


def test_a_report_is_one_file_that_names_no_other(run: Path, capsys: Capture) -> None:
    text = report(capsys, str(run))
    page = Page(text)
    assert page.links == ["data:,"]
    assert re.findall(r"url\(|@import|https?://", text) == []
    assert len(text) < 100_000
    assert (run / "report.html").read_text() == text


def test_it_shows_curves_attempts_events_time_audit_and_configuration(run: Path, capsys: Capture) -> None:
    text = report(capsys, str(run))
    page = Page(text)
    for heading in ("Curves", "Over time", "What happened", "Where the time went", "Audit", "Configuration"):
        assert heading in page.texts
    for title in (
        "loss ",
        "held-out loss ",
        "learning rate ",
        "gradient norm ",
        "tokens per second ",
        "goodput so far ",
    ):
        assert title in page.texts
    attempts = [t for t in page.titles if t.startswith("attempt 2 of run, from step 7")]
    assert len(attempts) == 4  # one in each curve by step
    assert any(title.startswith("attempt 1: ") for title in page.titles)  # in the timeline
    assert any("bad_step" in title and "step 12" in title for title in page.titles)
    assert any("96 in" in told for told in page.texts)
    assert "global_batch: 4" in text
    assert "What differs" not in page.texts


def test_what_is_damaged_is_told(run: Path, capsys: Capture) -> None:
    (run / "checkpoints/step_20/trainer.json").unlink()
    page = Page(report(capsys, str(run)))
    assert "FAULT" in page.texts and "FAULT, see below" in page.texts
    assert any("step 20 is damaged" in told for told in page.texts)


def other(run: Path, **train: Any) -> Path:
    """A second run whose keys differ, and whose loss does from step 10 on."""
    copy = shutil.copytree(run, run.parent / "other")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["train"] |= train
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["step"] >= 10 and "loss" in row:
            row["loss"] += 0.5
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return copy


def test_several_runs_share_the_charts(run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    page = Page(report(capsys, str(run), str(other(run, clip_norm=2.0))))
    assert (run.parent / "report.html").exists()
    assert "What differs" in page.texts and "train.clip_norm" in page.texts
    assert "train.global_batch" not in page.texts


def test_a_secret_is_not_shown(run: Path, capsys: Capture) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["tracker"] = {"uri": "https://me:sesame@host", "api_key": "sesame"}
    config["recipe"] = {"name": "<script>alert(1)</script>"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    log, told = str(run / "logs/x"), "cannot reach https://me:sesame@host"
    RunFolder(run).event("failure", attempt=2, rank=1, host="n", message=told, log=log)
    text = report(capsys, str(run))
    Page(text)
    assert "sesame" not in text
    assert "cannot reach https://(not shown)@host" in text
    assert "&lt;script&gt;alert(1)" in text


def test_where_it_goes_is_said_and_checked_before_anything_is_written(run: Path, capsys: Capture) -> None:
    target = run.parent / "page.html"
    report(capsys, str(run), f"to={target}")
    assert target.exists() and not (run / "report.html").exists()
    for words, told in {
        (): "the command is: report RUN",
        ("nowhere",): "nowhere is no run folder",
        (str(run), f"to={run}"): "is a folder",
        (str(run), "to=no/such/page.html"): "there is no folder",
        (str(run),) * 9: "9 runs are too many",
    }.items():
        assert main(["report", *words]) == 2
        assert told in capsys.readouterr().err


def test_a_run_that_has_not_begun_has_a_page_too(run: Path, capsys: Capture) -> None:
    for name in ("events.jsonl", "metrics.jsonl"):
        (run / name).unlink()
    page = Page(report(capsys, str(run)))
    assert "was not launched" in page.texts and "nothing was logged" in page.texts


def test_differences_are_keys_versions_and_the_first_loss(run: Path) -> None:
    one, two = Journal(RunFolder(run)), Journal(RunFolder(other(run, clip_norm=2.0)))
    assert keys([one, two]) == [("train.clip_norm", [None, "2.0"])]
    found = first_loss(one, two)
    assert found is not None and found[0] == 10 and found[2] == pytest.approx(found[1] + 0.5)
    assert common_steps(one, two) == 23  # step 12 was bad
    assert first_loss(one, one) is None and versions([one, one]) == []
    launch = {"event": "launch", "time": 1.0, "attempt": 3, "host": "n", "versions": {"torch": "1.0"}}
    append_line(two.folder.events, launch)
    changed = Journal(two.folder)
    assert ("torch", [None, "1.0"]) in versions([one, changed])
