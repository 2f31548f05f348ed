"""The pytest plugin: options, ini options, a marker, fixtures, and a section of the summary.

It acts before conftest files and test modules are imported, so that what they ask for at import
is redirected too. Loaded without its options it does nothing, and it does not import torch; with
them, torch is imported when the tests do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ._children import Exported, Family, new_folder, variables_for
from ._command_settings import choose, with_place
from ._imports import when_imported
from ._ledger import Ledger
from ._settings import REPORT, SETTINGS, Arguments, Found, Setting, Settings, gather
from ._spec import ACCELERATORS, parse
from ._summary import render
from ._variables import FALSE, FOLDER, TRUE
from .errors import SettingsError, SimulatorError, TargetError, TorchDeviceError

if TYPE_CHECKING:
    from types import ModuleType

    from _pytest.terminal import TerminalReporter

__all__ = ["entry_point"]

_OPTION = "--torchdevice"
_REPORT_OPTION = "torchdevice_report"
# Setting to option, and with hyphens the option of the command line.
_OPTIONS = {
    "target": "torchdevice",
    "simulate": "torchdevice_simulate",
    "report": _REPORT_OPTION,
}
# Set by `torchdevice test`, which redirects by itself, and compares with a plain run.
_TESTED = "TORCHDEVICE_TEST_STREAM"
_MARKER = (
    "torchdevice(target=None, *, enabled=True, **settings): redirect this test, with settings of "
    "torchdevice.redirect; enabled=False leaves it to plain torch."
)


# --- options -----------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("torchdevice", "redirect PyTorch devices (torchdevice)")
    group.addoption(
        _OPTION,
        nargs="?",
        const="",
        default=None,
        metavar="TARGET",
        help="redirect every test: alone to what the machine has, with =TARGET to that device",
    )
    group.addoption(
        "--torchdevice-simulate",
        default=None,
        metavar="DEVICE",
        help="simulate DEVICE (mps or cuda) on the CPU",
    )
    group.addoption(
        "--torchdevice-report",
        default=None,
        metavar="FILE",
        help="write what was redirected, by source line, to FILE (.html, .json or .txt)",
    )
    parser.addini("torchdevice", "as --torchdevice: true, false or a target", default=None)
    parser.addini("torchdevice_simulate", "as --torchdevice-simulate: mps or cuda", default=None)
    parser.addini("torchdevice_report", "as --torchdevice-report: a file", default=None)
    _take_joined_values_only(parser)


def _take_joined_values_only(parser: pytest.Parser) -> None:
    """Let `--torchdevice tests/` be an option and a folder; argparse would take it for a target.

    argparse knows options that may have a value, but none that may have one only after "=".
    """

    def taking_joined(parse_arguments: Callable[..., Any]) -> Callable[..., Any]:
        def parse_these(arguments: Sequence[Any], namespace: Any = None) -> Any:
            words = list(arguments)
            end = words.index("--") if "--" in words else len(words)
            words[:end] = [f"{w}=" if w == _OPTION else w for w in words[:end]]
            return parse_arguments(words, namespace)

        return parse_these

    for name in ("parse", "parse_known_and_unknown_args"):
        setattr(parser, name, taking_joined(getattr(parser, name)))


def _given(config: pytest.Config, name: str) -> tuple[str | None, str]:
    """What is asked for on the command line or in the ini file, and how to name that."""
    # Before conftest files are loaded, only this has the command line.
    option = getattr(config.known_args_namespace, name, None)
    if option is not None:
        return str(option), f"--{name.replace('_', '-')}={option}"
    value = _in_file(config, name)
    # Only what is an option of the command line may be without a value.
    if value.lower() in FALSE:
        return None, ""
    file = config.inipath.name if config.inipath is not None else "the command line"
    return value, f"{name}={value} in {file}"


def _in_file(config: pytest.Config, name: str) -> str:
    try:
        value = config.getini(name)
    except (TypeError, pytest.UsageError):  # by version of pytest
        # pytest's own TOML tables have booleans, and an ini option has one type, here a string.
        value = getattr(getattr(config, "_inicfg", {}).get(name), "value", None)
        if not isinstance(value, bool):
            raise
        value = str(value).lower()
    return "" if value is None else str(value).strip()


class _Given(Arguments):
    """Settings from options and ini options, whose errors name these."""

    def __init__(self, values: dict[str, object], places: dict[str, str]) -> None:
        super().__init__(values)
        self._places = places

    def place(self, row: Setting, value: object) -> str:
        return self._places[row.name]


class _EntryPoint:
    """What pytest finds installed: it registers this module, unless `-p` has done so already."""

    def pytest_addoption(self, pluginmanager: pytest.PytestPluginManager) -> None:
        if pluginmanager.get_plugin(__name__) is None:
            pluginmanager.register(sys.modules[__name__], __name__)


entry_point: _EntryPoint = _EntryPoint()


# --- from the start to the end of a session ----------------------------------------------------


class _Session:
    """Redirection, from before the first conftest file until pytest is done.

    Args:
        settings: What the options and the environment say; None to simulate only.
        simulate: The device to simulate, or None.
        reports: Files to write the report to.
    """

    def __init__(
        self, settings: Settings | None, simulate: str | None, reports: Sequence[str]
    ) -> None:
        self.settings = settings
        self.simulate = simulate
        self.reports = list(reports)
        self._ledger: Ledger | None = None
        self._context: Any = None
        self.process = os.getpid()
        self.undo: list[Callable[[], None]] = []
        self.is_told = FOLDER in os.environ

    def begin(self) -> None:
        """Simulate and redirect; after an error, `end` puts back what was done."""
        if self.simulate is not None:
            # Before anything asks torch about its devices.
            _import("simulate").load(self.simulate)
        if self.settings is None:
            return
        self._set_outer_aside()
        self._tell_children(self.settings)
        if self.settings.target not in (None, "cpu"):
            # Whether there is such a target, only torch knows.
            __import__("torch")
        self.undo.append(when_imported("torch", self._enable))

    def _tell_children(self, settings: Settings) -> None:
        """Have processes that the tests start redirected too, and workers of pytest-xdist."""
        session = sys.modules.get(f"{__package__}._session")
        own = "" if session is None else session.family.folder
        folder = os.environ.get(FOLDER) or own or new_folder(os.environ)
        told = variables_for(settings, {"simulate": self.simulate}, folder)
        # Of all processes the outermost writes the report, and this is it.
        told[REPORT.variable] = None
        self.undo.append(Exported(told, os.environ).take_back)

    def _set_outer_aside(self) -> None:
        """End what is enabled, to be enabled again: by a session of pytest around this one."""
        session = sys.modules.get(f"{__package__}._session")
        outer = None if session is None else session.enabled_settings()
        if session is not None and outer is not None:
            session.disable()
            self.undo.append(lambda: session.enable(outer))

    def _enable(self) -> None:
        session = _import("_session")
        session.enable(self.settings)
        # Tests may redirect as well, otherwise.
        self._context = session.latest
        self.undo.append(session.disable)

    def end(self) -> None:
        """Put back what was; where a step fails, the others follow."""
        while self.undo:
            self.undo.pop()()

    def leave_counts(self) -> None:
        """Leave for the root of the family what this process counted so far."""
        session = sys.modules.get(f"{__package__}._session")
        if session is not None:
            session.family.leave()

    def ledger(self) -> Ledger | None:
        """What was counted here and in other processes; None where others tell it."""
        if self._ledger is None:
            self._ledger = self._collect()
        return self._ledger

    def write_reports(self, folder: str) -> None:
        """Write what the report is to be written to; a line of the summary tells what was."""
        ledger = self.ledger()
        if ledger is None or self.settings is None or not self.reports:
            return
        from ._reporting import make, write_all

        report = make(ledger, self._context, self.settings, folder=folder)
        self.reports = write_all(report, self.reports)

    def target(self, given: Sequence[str]) -> str:
        """Where requests went.

        Args:
            given: What requests were given, where only other processes know the target.
        """
        if self._context is not None:
            return str(self._context.target)
        asked = None if self.settings is None else self.settings.target
        return next(iter(given), asked or "not asked for")

    def _collect(self) -> Ledger | None:
        if f"{__package__}._session" in sys.modules:
            return _import("_api").ledger()
        if self.is_told:
            return None
        # Such as in the process that only gives tests to workers of pytest-xdist.
        ledger = Ledger()
        Family(ledger, os.environ).collect(at_end=True)
        return ledger


_SESSION = pytest.StashKey[_Session]()


def _import(name: str) -> ModuleType:
    from importlib import import_module

    return import_module(f".{name}", __package__)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    _begin(early_config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    # Where the plugin is named by a conftest file, this is the first that it hears.
    _begin(config)


def _begin(config: pytest.Config) -> None:
    if _SESSION in config.stash or os.environ.get(_TESTED):
        return
    asked = {name: _given(config, option) for name, option in _OPTIONS.items()}
    values: dict[str, object] = {name: value for name, (value, _) in asked.items()}
    if values["target"] is None and getattr(config.known_args_namespace, _REPORT_OPTION, None):
        raise pytest.UsageError(
            f"{asked['report'][1]}: there is nothing to report, as nothing is redirected: add "
            f"{_OPTION}."
        )
    if values["simulate"] is None and values["target"] is None:
        return
    _check_words(config)
    is_redirected = values["target"] is not None
    if str(values["target"] or "").lower() in {"", *TRUE}:
        values["target"] = None
    places = {name: place for name, (_, place) in asked.items()}
    rows = [row for row in SETTINGS if row.name in _OPTIONS]
    settings: Settings | None = None
    simulate = asked["simulate"][0]
    reports: tuple[str, ...] = ()
    found: dict[str, Found] = {}
    try:
        own = gather(rows, [_Given(values, places)])
        if is_redirected:
            settings, run, others = choose(values, os.environ, config.rootpath)
            found = {**others, **{name: one for name, one in own.items() if one.place}}
            simulate, reports = run.simulate, run.report
        if hasattr(config, "workerinput"):
            reports = ()
        session = config.stash[_SESSION] = _Session(settings, simulate, reports)
        config.add_cleanup(session.end)
        session.begin()
    except SettingsError as error:
        raise pytest.UsageError(str(error)) from error
    except TargetError as error:
        raise pytest.UsageError(with_place(error, found)) from error
    except SimulatorError as error:
        place = places["simulate"]
        raise pytest.UsageError(f"{place}: {error}" if place else str(error)) from error
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise pytest.UsageError(
            f"{places['simulate'] or places['target']}: torch is not installed for "
            f"{sys.executable}: install it with pip."
        ) from error


def _check_words(config: pytest.Config) -> None:
    """A target that was not joined to its option would be looked for as a file."""
    if getattr(config.known_args_namespace, "torchdevice", None) != "":
        return
    for word in config.known_args_namespace.file_or_dir:
        text = str(word)
        if parse(text).type in ACCELERATORS | {"cpu"} and not Path(text).exists():
            raise pytest.UsageError(
                f"there is no file or folder {text!r}: to give a target, write {_OPTION}={text}."
            )


def pytest_report_header(config: pytest.Config) -> str | None:
    session = config.stash.get(_SESSION, None)
    if session is None:
        return None
    simulated = f"simulated {session.simulate}" if session.simulate is not None else ""
    if session.settings is None:
        return f"torchdevice: {simulated}, not redirected"
    target = session.settings.target or "the device that the machine has"
    return f"torchdevice: redirects to {target}{f', {simulated}' if simulated else ''}"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    running = session.config.stash.get(_SESSION, None)
    if running is None:
        return
    if hasattr(session.config, "workerinput"):
        running.leave_counts()
    else:
        running.write_reports(str(session.config.invocation_params.dir))


def pytest_terminal_summary(
    terminalreporter: TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    session = config.stash.get(_SESSION, None)
    if session is None or session.settings is None:
        return
    ledger = session.ledger()
    verbosity = config.option.verbose
    if ledger is None or verbosity < -1 or getattr(config.option, "no_summary", False):
        return
    entries = ledger.entries()
    text = render(
        entries,
        target=session.target([entry.site.given for entry in entries]),
        folder=str(config.invocation_params.dir),
        unreported=ledger.unreported,
    )
    lines = text.splitlines()
    if verbosity < 0:
        terminalreporter.write_line(lines[0])
        lines = []
    else:
        terminalreporter.ensure_newline()
        terminalreporter.section("torchdevice")
    for path in session.reports:
        lines.append(f"report written to {os.path.relpath(path, config.invocation_params.dir)}")
    for line in lines:
        terminalreporter.write_line(line.removeprefix("torchdevice: "))


# --- the marker --------------------------------------------------------------------------------


def _asked_by_marker(item: pytest.Item) -> tuple[bool, dict[str, Any]] | None:
    """Whether the closest marker redirects, and with what settings; None without a marker."""
    marker = item.get_closest_marker("torchdevice")
    if marker is None or os.environ.get(_TESTED):
        return None
    settings = dict(marker.kwargs)
    enabled = settings.pop("enabled", True)
    if len(marker.args) > 1 or (marker.args and "target" in settings):
        raise TypeError("torchdevice() takes one target")
    if marker.args:
        settings["target"] = marker.args[0]
    if not isinstance(enabled, bool):
        raise TypeError(f"enabled is True or False, not {enabled!r}")
    Settings.load({}, **settings)
    return enabled, settings


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        try:
            _asked_by_marker(item)
        except (TypeError, TorchDeviceError) as error:
            raise pytest.UsageError(f"marker torchdevice of {item.nodeid}: {error}") from error


def _as_marked(item: pytest.Item, *, has_begun: bool = True) -> ExitStack:
    """Enter what the marker says; where that fails, the setup of the test does, and only that."""
    entered = ExitStack()
    asked = _asked_by_marker(item)
    if asked is not None:
        enabled, settings = asked
        api = _import("_api")
        problem = ""
        try:
            entered.enter_context(api.redirect(**settings) if enabled else api.native())
        except TorchDeviceError as error:
            problem = f"marker torchdevice: {error}"
        if problem and not has_begun:
            pytest.fail(problem, pytrace=False)
    return entered


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    with _as_marked(item, has_begun=False):
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    with _as_marked(item):
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    try:
        with _as_marked(item):
            return (yield)
    finally:
        session = item.config.stash.get(_SESSION, None)
        if session is not None and session.process != os.getpid():
            # A child that runs one test, as pytest-forked has them, ends without its handlers.
            session.leave_counts()


# --- fixtures ----------------------------------------------------------------------------------


@pytest.fixture
def torchdevice_redirect(request: pytest.FixtureRequest) -> Iterator[object]:
    """Redirection for one test; its indirect parameter is a target, or a dict of settings."""
    import torchdevice_mode

    settings = getattr(request, "param", None) or {}
    if isinstance(settings, str):
        settings = {"target": settings}
    with torchdevice_mode.redirect(**settings) as redirection:
        yield redirection


@pytest.fixture
def simulated_mps() -> object:
    """The simulated `mps` device, once loaded there for the process; skips where it cannot be."""
    return _simulated("mps")


@pytest.fixture
def simulated_cuda() -> object:
    """The simulated `cuda` device, once loaded there for the process; skips where it cannot be."""
    return _simulated("cuda")


def _simulated(device: str) -> object:
    simulate = _import("simulate")
    if sys.platform != "linux" and not simulate.is_loaded():
        pytest.skip(f"devices are simulated on Linux, not on {sys.platform}")
    if simulate.loaded_device() not in (None, device):
        pytest.skip(f"this process simulates {simulate.loaded_device()}, and has one device")
    try:
        simulate.load(device)
    except SimulatorError as error:
        pytest.fail(str(error), pytrace=False)
    return simulate
