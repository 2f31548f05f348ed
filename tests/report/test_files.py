"""Writing a report: the ending names the form, and what goes wrong is one sentence."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import sys

import pytest

from torchdevice_mode import ReportError
from torchdevice_mode._values import NotAValueError, list_of_reports

from .conftest import an_entry

BEGINNINGS = {".html": "<!doctype html>", ".json": "{", ".txt": "torchdevice report"}


@pytest.mark.parametrize("ending", [*BEGINNINGS, ".HTML"])
def test_the_ending_names_the_form(report_of, tmp_path, ending):
    path = tmp_path / f"report{ending}"
    report_of(an_entry()).write(path)
    assert path.read_text().startswith(BEGINNINGS[ending.lower()])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("report.pdf", "names no form of report: give a file that ends in .html, .json or .txt"),
        ("report", "names no form of report"),
        (".html", "names no form of report"),
        ("nowhere/report.html", "there is no folder"),
        ("folder.html", "is a folder"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused_in_a_sentence(report_of, tmp_path, name, words):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ReportError, match=words) as error:
        report_of().write(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert str(error.value).count(". ") == 0


def test_a_report_that_does_not_fit_on_the_disk_leaves_what_was_there(report_of, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(ReportError, match=r"cannot be written \(File too large\)"):
            report_of(an_entry()).write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_full_device_is_one_sentence(report_of, tmp_path):
    path = tmp_path / "report.html"
    path.symlink_to("/dev/full")
    with pytest.raises(ReportError, match="No space left on device"):
        report_of().write(path)


def test_a_folder_without_rights_is_one_sentence(report_of, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    with pytest.raises(ReportError, match="Permission denied"):
        report_of().write(tmp_path / "report.txt")


def test_a_link_stays_a_link(report_of, tmp_path):
    (tmp_path / "real.txt").write_text("before")
    (tmp_path / "link.txt").symlink_to("real.txt")
    report_of().write(tmp_path / "link.txt")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text().startswith("torchdevice report")


def test_a_report_can_be_read_by_those_who_read_other_files(report_of, tmp_path):
    before = os.umask(0o022)
    try:
        report_of().write(tmp_path / "report.txt")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "report.txt").stat().st_mode) == 0o644


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are UTF-8 there")
@pytest.mark.parametrize("ending", BEGINNINGS)
def test_names_that_are_no_text_are_written_in_some_form(report_of, tmp_path, ending):
    path = tmp_path / f"report{ending}"
    report_of(an_entry(file="/home/me/\udcff.py")).write(path)
    path.read_text(encoding="utf-8")


def test_paths_are_absolute_since_programs_change_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list_of_reports(["a.html", "b.json", "a.html"]) == (
        str(tmp_path / "a.html"),
        str(tmp_path / "b.json"),
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a.pdf", "names no form of report"),
        ("a.html,b", "names 'b', which names no form of report"),
        (["a.html", "b"], "names 'b', which names no form of report"),
        ("nowhere/a.html", "there is no folder"),
        ("folder.html", "is a folder"),
        ("", "names no form of report"),
        (3, "is not a list of words"),
    ],
)
def test_a_setting_that_no_report_can_be_written_to_is_refused(tmp_path, monkeypatch, value, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(NotAValueError, match=words):
        list_of_reports(value)


def test_json_is_one_line_if_wanted(report_of):
    assert json.loads(report_of().to_json(indent=None))
    assert report_of().to_json(indent=None).count("\n") == 1
