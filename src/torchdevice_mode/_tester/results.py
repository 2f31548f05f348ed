"""Results of files of tests, kept in a folder as they come, so that a run can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .stream import Error, Result
from .suite import SuiteError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Store", "UnitResult", "fingerprint", "slug"]

_FORMAT = 1
_MANIFEST = "run.json"
_OWN = ("plain", "redirected", "simulated", "logs")


@dataclass(slots=True)
class UnitResult:
    """What became of one unit in one run.

    Attributes:
        unit: The file, or for unittest the name.
        run: `plain`, `redirected` or `simulated`.
        results: By test.
        seconds: How long its processes ran.
        problem: What ended them before their end; empty if nothing did.
        log: Where their output is, relative to the folder.
        source: Tells whether the file has changed since.
        events: What was redirected, by kind.
    """

    unit: str
    run: str
    results: dict[str, Result] = field(default_factory=dict)
    seconds: float = 0.0
    problem: str = ""
    log: str = ""
    source: str = ""
    events: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> UnitResult:
        """What `asdict` gave."""
        results = {
            name: Result(**{**one, "error": Error.read(one["error"])})
            for name, one in told["results"].items()
        }
        return cls(**{**told, "results": results})


def slug(unit: str) -> str:
    """A name for files about a unit: readable, and no other unit's."""
    if not unit:
        return "collection"
    words = re.sub(r"[^A-Za-z0-9]+", "-", "/".join(Path(unit).parts[-2:])).strip("-")
    return f"{words[:60]}-{hashlib.sha256(unit.encode('utf-8', 'replace')).hexdigest()[:8]}"


def fingerprint(unit: str) -> str:
    """Tells one state of a unit's file from another; empty where it has no file."""
    try:
        return hashlib.sha256(Path(unit).read_bytes()).hexdigest()[:16]
    except (OSError, ValueError):
        return ""


class Store:
    """A folder of results.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: int | None = None

    def begin(self, manifest: Mapping[str, object], *, resume: bool) -> None:
        """Make the folder ready.

        Args:
            manifest: What is run, and how; results of something else are not resumed.
            resume: Keep what is there.

        Raises:
            SuiteError: If the folder holds something else, or cannot be written.
        """
        told = {"format": _FORMAT, **manifest}
        try:
            before = self._manifest()
            if before is None and self.folder.exists() and any(self.folder.iterdir()):
                raise SuiteError(
                    f"{self.folder} holds something other than results of torchdevice test: give "
                    f"another folder with --results."
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hold()
            if resume and before is not None and before != json.loads(json.dumps(told)):
                of = _what_differs(before, told)
                raise SuiteError(
                    f"{self.folder} holds results of {of} ({_command(before)}): leave "
                    f"--resume out, or give another folder with --results."
                )
            if before is not None and not resume:
                for name in _OWN:
                    shutil.rmtree(self.folder / name, ignore_errors=True)
            # Nobody means to commit these.
            (self.folder / ".gitignore").write_text("*\n", encoding="utf-8")
            self._put(self.folder / _MANIFEST, told)
        except OSError as error:
            raise SuiteError(
                f"{self.folder} cannot be written ({error.strerror or error}): give another folder "
                f"with --results."
            ) from error

    def _hold(self) -> None:
        """Keep other commands off the folder, until this one or its process has ended."""
        if self._held is not None or fcntl is None:
            return
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise SuiteError(
                f"{self.folder} is in use by another torchdevice test: wait for that, or give "
                f"another folder with --results."
            ) from None
        except OSError:
            pass  # a file system without locks
        self._held = folder

    def close(self) -> None:
        """Let others have the folder."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _manifest(self) -> dict[str, Any] | None:
        try:
            told = json.loads((self.folder / _MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return told if isinstance(told, dict) and "format" in told else None

    def log(self, run: str, unit: str) -> Path:
        """Where output of a unit's processes goes."""
        path = self.folder / "logs" / run / f"{slug(unit)}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def stream(self, run: str, unit: str) -> Path:
        """Where a process tells what happens; empty at first."""
        path = self.folder / "logs" / run / f"{slug(unit)}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        return path

    def save(self, result: UnitResult) -> None:
        """Keep the results of a unit; they are there in whole, or not."""
        self._put(self._file(result.run, result.unit), asdict(result))

    def load(self, run: str, unit: str) -> UnitResult | None:
        """The results of a unit, if they are of the file as it is now."""
        try:
            told = json.loads(self._file(run, unit).read_text(encoding="utf-8"))
            result = UnitResult.read(told)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return result if result.source == fingerprint(unit) else None

    def _file(self, run: str, unit: str) -> Path:
        return self.folder / run / f"{slug(unit)}.json"

    def _put(self, path: Path, told: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(told), encoding="utf-8")
        part.replace(path)


def _what_differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before.get("command") != now.get("command"):
        return "another command"
    if before.get("folder") != now.get("folder"):
        return "this command in another folder"
    same = before.get("runs") == now.get("runs")
    return "this command by another Python" if same else "this command with other options"


def _command(manifest: Mapping[str, Any]) -> str:
    return shlex.join(map(str, manifest.get("command", ["unknown"])))
