"""What goes to the processes that this one starts, and what comes back: settings and ledgers.

Settings go in environment variables. Back come files: a process leaves what it counted, when it
ends, in a folder that it was told of, and the process at the root of the family adds that to its
own ledger. Nothing here may disturb the program: what cannot be written is one warning.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from ._ledger import Entry, Ledger, Site
from ._log import logger, tell
from ._settings import OF_REDIRECTION, OF_RUN, Settings, as_text
from ._variables import ACTIVATE, FOLDER

__all__ = ["Exported", "Family", "new_folder", "variables_for"]

_VERSION = 1
# Of a process with more call sites than that, the busiest are told.
_MOST_ENTRIES = 10_000


class Exported:
    """Environment variables that hold for a while.

    Args:
        variables: What to set; None for a variable that is to be absent.
        environ: Where.
    """

    def __init__(
        self, variables: Mapping[str, str | None], environ: MutableMapping[str, str]
    ) -> None:
        self._environ = environ
        self._before = {name: environ.get(name) for name in variables}
        self._set = dict(variables)
        self._write(variables)

    def take_back(self) -> None:
        """Put back what was there, but for variables that the program has changed since."""
        ours = {n for n, value in self._set.items() if self._environ.get(n) == value}
        self._write({name: value for name, value in self._before.items() if name in ours})

    def _write(self, variables: Mapping[str, str | None]) -> None:
        for name, value in variables.items():
            if value is None:
                self._environ.pop(name, None)
            elif self._environ.get(name) != value:
                self._environ[name] = value


def variables_for(
    settings: Settings, run: Mapping[str, object], folder: str
) -> dict[str, str | None]:
    """The environment variables by which a process that is started redirects as this one.

    Args:
        settings: Those of the redirection.
        run: Those of the program, by name; of others, it finds what the environment has.
        folder: Where the process is to leave what it counted.

    Returns:
        Text by variable; None for one that is to be absent.
    """
    told: dict[str, str | None] = {row.variable: None for row in OF_REDIRECTION}
    told |= settings.to_environment()
    rows = [row for row in OF_RUN if row.told and row.name in run]
    told |= {row.variable: None for row in rows}
    told |= as_text(rows, run)
    return told | {ACTIVATE: "1", FOLDER: folder}


def new_folder(environ: Mapping[str, str]) -> str:
    """A name for this process's family to leave ledgers under; made when one is left.

    Its number tells the root of the family, and the rest that nobody else can have made it.
    """
    places = [environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    parent = next((place for place in places if os.access(place, os.W_OK)), "/tmp")
    return str(Path(parent) / f"torchdevice-{os.getpid()}-{os.urandom(8).hex()}")


class Family:
    """The processes that count together, as one of them sees it.

    Args:
        ledger: What this process counts in.
        environ: The environment, which names the folder where there is a family already.
    """

    def __init__(self, ledger: Ledger, environ: Mapping[str, str]) -> None:
        self.ledger = ledger
        self.folder = environ.get(FOLDER) or new_folder(environ)
        self._begin()

    def _begin(self) -> None:
        self._name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._announced = False
        self._failed = False
        self._told = 0
        # What processes told that go on, and will tell again.
        self._added: dict[str, list[Entry]] = {}
        self.ledger.on_first = None if self.is_root else self.announce

    def join(self, environ: Mapping[str, str]) -> None:
        """Belong to the family that the environment names; it may have come to name one."""
        folder = environ.get(FOLDER)
        if folder and folder != self.folder:
            self.folder = folder
            self._begin()

    @property
    def is_root(self) -> bool:
        """Whether this process adds up what the others leave."""
        return self._root == os.getpid()

    @property
    def _root(self) -> int:
        number = self.folder.rpartition("torchdevice-")[2].partition("-")[0]
        return int(number) if number.isdecimal() else 0

    def after_fork(self) -> None:
        """Be another process: what was counted before the fork is the parent's to tell."""
        self.ledger.restart()
        self._begin()

    def announce(self) -> None:
        """Say that this process has something to tell; one that is killed cannot say it later."""
        if self._announced or self._failed or self.is_root:
            return
        if _is_alive(self._root):
            self._announced = self._try(lambda: self._make("open"))
        else:
            self._failed = True

    def finish(self) -> None:
        """At the end of a process: leave its ledger, or add up those of the others."""
        if self.is_root:
            self.collect(at_end=True)
        elif self._announced:
            self.leave()
            if not self._failed:
                with suppress(OSError):
                    self._file("open").unlink()

    def leave(self) -> None:
        """Write what this process counted so far, in place of what it wrote before."""
        if self._failed or not self._announced:
            return
        entries = self.ledger.entries()
        counted = sum(entry.count for entry in entries)
        if counted == self._told:
            return
        self._told = counted
        entries = entries[:_MOST_ENTRIES]
        told = {"version": _VERSION, "entries": [[*e.site, *e[1:]] for e in entries]}
        if not self._try(lambda: self._put(json.dumps(told))):
            with suppress(OSError):
                self._file("part").unlink()

    def collect(self, *, at_end: bool = False) -> None:
        """Add to the ledger what other processes have left; only the root does.

        Args:
            at_end: Nobody will be asked again: count those that left nothing, and tidy up.
        """
        if not self.is_root:
            return
        try:
            names = os.listdir(self.folder)  # noqa: PTH208 - most often there is none
        except OSError:
            return
        folder = Path(self.folder)
        running = {name[:-5] for name in names if name.endswith(".open")}
        reported = {name[:-5] for name in names if name.endswith(".json")}
        for name in sorted(reported):
            entries = _read(folder / f"{name}.json")
            self.ledger.add(entries, instead_of=self._added.pop(name, ()))
            if name in running:
                self._added[name] = entries
            else:
                with suppress(OSError):
                    (folder / f"{name}.json").unlink()
        if at_end:
            self.ledger.unreported += len(running - reported)
            _remove(folder)

    def _file(self, suffix: str) -> Path:
        return Path(self.folder, f"{self._name}.{suffix}")

    def _make(self, suffix: str) -> None:
        Path(self.folder).mkdir(mode=0o700, exist_ok=True)
        self._file(suffix).touch()

    def _put(self, text: str) -> None:
        part = self._file("part")
        part.write_text(text, encoding="utf-8")
        # Renamed when it is complete, so that nobody reads half of it.
        part.replace(self._file("json"))

    def _try(self, action: Callable[[], object]) -> bool:
        """Do what may fail, for want of space or of rights."""
        try:
            action()
        except OSError as error:
            self._failed = True
            # Without the folder, the root has ended: nobody waits for this any more.
            if self._announced and isinstance(error, FileNotFoundError):
                return False
            tell(
                "ledger-lost",
                f"What is redirected in process {os.getpid()} is missing from the report, since "
                f"{self.folder} cannot be written ({error.strerror or error}): set TMPDIR to a "
                f"folder that can.",
            )
        return not self._failed


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":
        return True  # asking would interrupt it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def _read(path: Path) -> list[Entry]:
    """The entries of a file; none where it is not what `Family.leave` writes."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["version"] != _VERSION:
            return []
        return [
            Entry(Site(str(file), int(line), *map(str, rest)), int(count), int(moved), float(time))
            for file, line, *rest, count, moved, time in told["entries"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.debug("%s is not a ledger: %s", path, error)
        return []


def _remove(folder: Path) -> None:
    with suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
