"""The checks of one file, and `examine`, which makes findings of its text. Pure: no torch here."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

from . import _calls, _texts
from ._facts import is_device_text, is_device_type
from ._findings import Finding, Severity
from ._flow import IMPORT_ERRORS, Imported, Where
from ._found import Found, Lookup
from ._names import Fact, dotted, last_name
from ._packages import Package, advice, by_import
from ._reader import Checks, Reader
from ._search_path import MAY_ADD, Folder, added_folders

__all__ = ["Examined", "examine"]

_MODULES = (
    "torch.cuda.",
    "torch.backends.cuda.",
    "torch.backends.cudnn.",
    "torch.backends.mps.",
    "torch.mps.",
    "torch.accelerator.",
    "torch._C._cuda",
)
_TENSOR_TYPE = re.compile(r"torch\.cuda\.\w+Tensor")
_DOUBLE = frozenset(
    f"torch.{name}" for name in ("float64", "double", "complex128", "cdouble", "cuda.DoubleTensor")
)
_VERSION = "torch.version.cuda"
_CUDNN = "torch.backends.cudnn.is_available"
_OF_THE_BUILD = frozenset({_VERSION, _CUDNN, "torch.backends.cuda.is_built"})
# What takes text, or a number as text, and not None.
_READS_TEXT = frozenset({"float", "int", "Version", "LooseVersion", "StrictVersion", "parse"})
_READS_TEXT |= {"parse_version"}
_EXPECTED = ("torch.cuda.is_available()", "typing.TYPE_CHECKING")


@dataclass(slots=True)
class Examined:
    """What one file is.

    Attributes:
        path: The file.
        findings: What was found in it, in the order of lines.
        imported: The modules that it imports.
        added: The folders that it adds to the search path of modules.
        extensions: Names of extensions that it builds from CUDA source.
        is_program: Whether it is made to be run.
        is_code: Whether it is Python, and not a list of requirements or the like.
        mentions: The names that it reads, those of attributes too, by the function or class at the
            level of the module that reads them; under "" those of the module itself.
        called: The names that the module calls while it is imported.
    """

    path: str
    findings: list[Finding] = field(default_factory=list)
    imported: list[Imported] = field(default_factory=list)
    added: list[Folder] = field(default_factory=list)
    extensions: set[str] = field(default_factory=set)
    is_program: bool = False
    is_code: bool = True
    mentions: dict[str, set[str]] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)


def examine(
    source: str,
    path: str,
    lookup: Lookup,
    *,
    target: str = "mps",
    local: Iterable[str] = (),
    extensions: Iterable[str] = (),
    cuda_build: bool = False,
) -> Examined:
    """Read a program's text.

    Args:
        source: The text.
        path: The file, as findings name it.
        lookup: Gives the state of a name of torch.
        target: The type of device that the program is to run on.
        local: Modules of the project: a name that is one of them is no package.
        extensions: Modules of the project that are built from CUDA source.
        cuda_build: Whether torch was built for CUDA, though the target is not CUDA: then it has a
            version of CUDA.

    Returns:
        What was found. Text that is not Python gives one finding that says so.
    """
    lines = re.split(r"\r\n|\r|\n", source)  # as Python counts them; not at form feeds
    found = Found(path, lines, lookup, target)
    result = Examined(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in strings, say
            tree = ast.parse(source, filename=path)
        checks = FileChecks(found, frozenset(local), frozenset(extensions), cuda_build)
        unknown = _OF_THE_BUILD if cuda_build else frozenset()
        reader = Reader(checks, facts_hold=target != "cuda", unknown=unknown)
        reader.read(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        result.findings = [_unparsable(path, error, lines)]
        result.is_code = False
        return result
    result.findings = sorted(found.findings, key=lambda one: (one.line, one.column, one.rule))
    result.imported = reader.imported
    if MAY_ADD.search(source):
        result.added = added_folders(tree)
    result.extensions = checks.built
    result.is_program = reader.is_program
    result.mentions = checks.mentions
    result.called = checks.called
    return result


def _unparsable(path: str, error: Exception, lines: list[str]) -> Finding:
    line, column = 1, 1
    if isinstance(error, SyntaxError):
        line, column = max(error.lineno or 1, 1), max(error.offset or 1, 1)
        why = error.msg
    elif isinstance(error, (RecursionError, MemoryError)):
        why = "it is nested too deeply"
    else:
        why = str(error)
    return Finding(
        path,
        line,
        column,
        line,
        column,
        "unparsable-file",
        Severity.WARNING,
        f"this is not Python as this version reads it, and was passed over: {why.rstrip('.?')}.",
        source=lines[line - 1].strip()[:200] if line <= len(lines) else "",
    )


def _asks_how_it_begins(node: ast.Call) -> bool:
    """Whether it is `str(x.device).startswith("cuda")`."""
    given = getattr(node.args[0], "value", None) if node.args else None
    asks = isinstance(node.func, ast.Attribute) and node.func.attr == "startswith"
    return asks and str(given).startswith("cuda") and is_device_text(node.func.value)  # type: ignore[attr-defined]


class FileChecks(Checks):
    """Looks at what the reader meets in one file.

    Args:
        found: Where findings go.
        local: Modules of the project.
        extensions: Modules of the project that are built from CUDA source.
        cuda_build: Whether torch has a version of CUDA.
    """

    def __init__(
        self,
        found: Found,
        local: frozenset[str],
        extensions: frozenset[str],
        cuda_build: bool = False,
    ) -> None:
        self.cuda_build = cuda_build
        self.found = found
        self.local = local
        self.extensions = extensions
        self.built: set[str] = set()
        self.mentions: dict[str, set[str]] = {}
        self.called: set[str] = set()
        self._roles: dict[int, str] = {}

    def expression(self, node: ast.expr, where: Where, reader: Reader) -> bool:
        """Look at an expression; True if what is below it needs no look."""
        role = self._roles.get(id(node), "")
        if isinstance(node, ast.Constant):
            _texts.text(node, role, self.found, where)
            return True
        if isinstance(node, (ast.Attribute, ast.Name)):
            return self._name(node, role, where)
        if isinstance(node, ast.IfExp) and _texts.is_choice(node, where.scope):
            self._choice(node, where)
            return True
        if isinstance(node, ast.JoinedStr):
            _texts.joined(node, role, self.found, where)
        elif isinstance(node, ast.Call):
            _calls.call(node, self.found, where, self.built)
            if not where.function:
                self.called.add(last_name(node.func))
            self._reads_version(node, where)
            if _asks_how_it_begins(node):
                self._compares_devices(node, ", so this is False", where)
        elif isinstance(node, ast.Compare):
            self._compare(node, where)
        elif isinstance(node, ast.Subscript):
            self._subscript(node, where, reader)
        self._roles.update(_texts.roles(node, where.scope))
        if role:
            self._roles.update(_texts.handed_down(node, role))
        return False

    def _choice(self, node: ast.IfExp, where: Where) -> None:
        given, reason = self.found.decision("cuda")
        message = f"the device is chosen by what there is, which is {given} here: {reason}"
        self.found.add(node, "device-choice", message, where, about="device string", state="mapped")

    def _name(self, node: ast.Attribute | ast.Name, role: str, where: Where) -> bool:
        """Look at a name; True if it is dotted as a whole."""
        if isinstance(node.ctx, ast.Load):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            self.mentions.setdefault(where.function.partition(".")[0], set()).add(name)
        path = dotted(node, where.scope)
        if path is None:
            return False
        # Not at names that stand for it: it was told of where they were assigned.
        own = isinstance(node, ast.Attribute) or path.endswith(f".{node.id}")
        if path in _DOUBLE and own and role != _texts.COMPARED:
            _calls.double(node, path, self.found, where)
        if _TENSOR_TYPE.fullmatch(path):
            message = f"{path} means tensors of that dtype on the target"
            self.found.add(node, "tensor-type", message, where, about=path, state="mapped")
        elif path.startswith(_MODULES):
            self.found.add_name(node, path, where)
        elif path == _VERSION:
            message = f"{_VERSION} is None where torch was not built for CUDA"
            self.found.add(node, "torch-native", message, where, about=path, state="native")
        elif path.startswith(_VERSION + "."):
            self._version(node, where)
        return True

    def _version(self, node: ast.expr, where: Where) -> None:
        self.found.add(
            node,
            "cuda-version",
            f"{_VERSION} is read as text, and is None where torch was not built for CUDA",
            where,
            about=_VERSION,
            caught=frozenset({"AttributeError", "TypeError", "Exception", "BaseException"}),
            suggestion="Ask whether it is None first.",
            severity=Severity.WARNING if self.cuda_build else None,
        )

    def _reads_version(self, node: ast.Call, where: Where) -> None:
        for argument in node.args[:1] if last_name(node.func) in _READS_TEXT else ():
            if dotted(argument, where.scope) == _VERSION:
                self._version(argument, where)

    def _subscript(self, node: ast.Subscript, where: Where, reader: Reader) -> None:
        owner = dotted(node.value, where.scope)
        if owner == _VERSION:
            self._version(node, where)
        elif owner == "os.environ" and isinstance(node.ctx, ast.Store):
            _calls.environment(node, node.slice, reader.assigned, self.found, where)

    def _compare(self, node: ast.Compare, where: Where) -> None:
        right = node.comparators[0]
        compared = right.value if isinstance(right, ast.Constant) else None
        names_cuda = (is_device_type(node.left) and compared == "cuda") or (
            is_device_text(node.left) and str(compared).startswith("cuda")
        )
        if names_cuda and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            so = f", so this is {isinstance(node.ops[0], ast.NotEq)}"
            self._compares_devices(node, so, where)
        if dotted(node.left, where.scope) == _VERSION and isinstance(
            node.ops[0], (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
        ):
            self._version(node.left, where)

    def _compares_devices(self, node: ast.expr, so: str, where: Where) -> None:
        given, _ = self.found.decision("cuda")
        kind = given.partition(":")[0]
        self.found.add(
            node,
            "device-comparison",
            f"the type of a device is {kind!r} here, never 'cuda'{so}",
            where,
            about="device.type",
            suggestion="Compare devices with each other, or ask tensor.is_cuda, which is True.",
        )

    def branch(self, node: ast.expr | ast.stmt, where: Where, known: Fact, failing: bool) -> None:
        """Look at a condition that is known, or at what ends the program on its account."""
        if failing:
            self.found.add(
                node,
                "known-failure",
                f"the program ends itself here, as {known.why}",
                where,
                caught=frozenset({"Exception", "BaseException"}),
                suggestion="Change the check, so that it asks for what the code below needs.",
            )
        elif not known.why.startswith(_EXPECTED):
            message = f"this is {known.value}, as {known.why}"
            self.found.add(node, "known-branch", message, where)

    def imports(self, name: str, node: ast.stmt, where: Where) -> Package | None:
        """Look at a module that is imported; the package, if its import fails here."""
        if self.found.target == "cuda":
            return None
        if name.startswith("."):
            return self._extension(name.rpartition(".")[2], node, where, relative=True)
        top = name.partition(".")[0]
        extension = self._extension(name, node, where, relative=False)
        if extension is not None or top in self.local:
            return extension
        package = by_import(name)
        if package is None:
            return None
        fails = package.needs == "cuda"
        self.found.add(
            node,
            "cuda-package" if fails else "partly-cuda-package",
            f"{package.name} is for CUDA{' only' if fails else ' in parts'}, as {package.reason}",
            where,
            about=package.name,
            suggestion=advice(package, name),
            caught=IMPORT_ERRORS,
            lazy=True,
        )
        return package if fails else None

    def _extension(
        self, name: str, node: ast.stmt, where: Where, *, relative: bool
    ) -> Package | None:
        """An import of what the project builds from CUDA source."""
        for built in self.extensions:
            last = built.rpartition(".")[2]
            if name == last if relative else (name == built or name.startswith(built + ".")):
                self.found.add(
                    node,
                    "cuda-extension-import",
                    f"{built} is built from CUDA source, so it cannot be imported here",
                    where,
                    about=built,
                    suggestion="Give it a version in torch's own operators.",
                    caught=IMPORT_ERRORS,
                    lazy=True,
                )
                return Package(built, "cuda", "", "")
        return None
