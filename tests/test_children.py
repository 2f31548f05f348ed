"""Ledgers that processes leave for the root of their family, and variables that hold a while."""

from __future__ import annotations

import errno
import json
import os
import sys
import warnings
from pathlib import Path

import pytest

from torchdevice_mode import TorchDeviceWarning
from torchdevice_mode._children import Exported, Family, new_folder
from torchdevice_mode._ledger import Ledger, event
from torchdevice_mode._log import forget_warnings
from torchdevice_mode._variables import FOLDER

CUDA = event("redirection", "cuda", "mps:0", "the machine has no cuda")


@pytest.fixture(autouse=True)
def said_anew():
    forget_warnings()
    yield
    forget_warnings()


@pytest.fixture
def environ(tmp_path) -> dict[str, str]:
    """The environment of the children of this process."""
    return {FOLDER: new_folder({"TMPDIR": str(tmp_path)})}


@pytest.fixture
def root(environ) -> Family:
    return Family(Ledger(), environ)


class _Child(Family):
    """The family as another process would see it."""

    is_root = property(lambda self: False)  # type: ignore[assignment]


def count(family: Family, times: int = 1) -> None:
    for _ in range(times):
        family.ledger.count(sys._getframe(), CUDA)


def totals(family: Family) -> list[tuple[str, int]]:
    return [(Path(entry.site.file).name, entry.count) for entry in family.ledger.entries()]


def test_the_root_adds_what_a_child_left_once(environ, root):
    child = _Child(Ledger(), environ)
    count(root)
    count(child, 3)
    child.finish()
    for _ in range(2):
        root.collect()
        assert totals(root) == [("test_children.py", 4)]
    assert root.ledger.unreported == 0


def test_what_a_child_tells_again_replaces_what_it_told(environ, root):
    child = _Child(Ledger(), environ)
    for times in (1, 2, 4):
        count(child)
        child.leave()
        root.collect()
        root.collect()
        count(child, times - 1)
    child.finish()
    root.finish()
    assert totals(root) == [("test_children.py", 1 + 1 + 2 + 4 - 1)]


def test_a_child_that_tells_what_it_told_writes_nothing(environ, root, monkeypatch):
    child = _Child(Ledger(), environ)
    count(child)
    child.leave()
    monkeypatch.setattr(child, "_put", lambda text: pytest.fail("written"))
    child.leave()


def test_a_child_that_counts_nothing_leaves_nothing(environ, root):
    _Child(Ledger(), environ).finish()
    assert not Path(root.folder).exists()


def test_a_child_that_is_killed_is_counted(environ, root):
    count(_Child(Ledger(), environ))
    told = _Child(Ledger(), environ)
    count(told)
    told.leave()
    root.finish()
    assert (root.ledger.unreported, totals(root)) == (1, [("test_children.py", 1)])
    assert not Path(root.folder).exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "entries": [[1]]}', "\udc00"]
)
def test_a_file_that_is_no_ledger_is_passed_over(root, text):
    Path(root.folder).mkdir()
    Path(root.folder, "1.json").write_text(text, errors="surrogatepass")
    root.finish()
    assert totals(root) == []


def test_of_many_call_sites_the_busiest_are_told(environ, root, monkeypatch):
    monkeypatch.setattr("torchdevice_mode._children._MOST_ENTRIES", 2)
    child = _Child(Ledger(), environ)
    for line in range(1, 5):
        code = compile("\n" * line + "tell()", "made.py", "exec")
        for _ in range(line):
            exec(code, {"tell": lambda: child.ledger.count(sys._getframe(1), CUDA)})
    child.finish()
    root.collect()
    assert [entry.count for entry in root.ledger.entries()] == [4, 3]


def full(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["_make", "_put"])
def test_a_full_disk_is_one_warning(environ, root, monkeypatch, step):
    child = _Child(Ledger(), environ)
    monkeypatch.setattr(child, step, full)
    with pytest.warns(TorchDeviceWarning, match=r"No space left on device") as said:
        for _ in range(3):
            count(child)
            child.leave()
        child.finish()
    assert [warning.message.slug for warning in said] == ["ledger-lost"]
    root.finish()
    assert root.ledger.unreported == (1 if step == "_put" else 0)


def test_a_full_disk_is_no_error_where_warnings_are(environ, monkeypatch, capsys):
    child = _Child(Ledger(), environ)
    monkeypatch.setattr(child, "_make", full)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count(child)
    assert capsys.readouterr().err.startswith("torchdevice: What is redirected in process")


def test_a_child_that_outlives_the_root_is_quiet(environ, root):
    child = _Child(Ledger(), environ)
    count(child)
    root.finish()
    child.finish()
    assert not Path(root.folder).exists()
    late = _Child(Ledger(), {FOLDER: root.folder.replace(str(os.getpid()), str(2**30))})
    count(late)
    late.finish()
    assert not Path(late.folder).exists()


def test_a_process_joins_the_family_that_it_is_told_of_later(tmp_path):
    family = Family(Ledger(), {"TMPDIR": str(tmp_path)})
    assert family.is_root
    family.join({})
    family.join({FOLDER: str(tmp_path / "torchdevice-1-x")})
    assert not family.is_root
    count(family)
    family.finish()
    (told,) = (tmp_path / "torchdevice-1-x").glob("*.json")
    assert json.loads(told.read_text())["version"] == 1


def test_ledgers_are_left_where_temporary_files_can_be_written(tmp_path):
    assert new_folder({"TMPDIR": str(tmp_path)}).startswith(str(tmp_path))
    assert new_folder({"TMPDIR": str(tmp_path / "missing")}).startswith("/tmp/torchdevice-")


def test_variables_hold_until_they_are_taken_back():
    environ = {"kept": "1", "changed": "1", "removed": "1", "by others": "1"}
    exported = Exported(
        {"changed": "2", "added": "2", "removed": None, "absent": None, "by others": "2"}, environ
    )
    assert environ == {"kept": "1", "changed": "2", "added": "2", "by others": "2"}
    environ["by others"] = "3"
    exported.take_back()
    assert environ == {"kept": "1", "changed": "1", "removed": "1", "by others": "3"}
