"""Packages that need an NVIDIA GPU: what is said where one is missing, and which can be replaced.

`PACKAGES` is the one list of them. An import of one that is missing fails as ever; the error only
carries a note that says what to do. Looking for a package (`importlib.util.find_spec`) says what
plain Python says. No torch is imported here.
"""

from __future__ import annotations

import sys

# Not that of `typing`, which takes longer to import than this file: see `_startup`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import importlib.machinery
    import types
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["PACKAGES", "SUBSTITUTES", "announce_missing", "before_torch", "note_about"]

_BY_HAND = "needs an NVIDIA GPU and torchdevice has no substitute for it: "

PACKAGES: dict[str, str | None] = {
    "flash_attn": None,
    "xformers": None,
    "apex": None,
    "bitsandbytes": None,
    "flash_attn_interface": "use flash_attn, for which there is one",
    "triton": "write the kernel with torch operators",
    "cupy": "use NumPy on the CPU, or torch operators",
    "cudf": "use pandas",
    "cuml": "use scikit-learn",
    "pycuda": "write the kernel with torch operators",
    "transformer_engine": "use the layers of torch.nn",
    "tensorrt": "run the model with torch",
    "torch_tensorrt": "run the model with torch.compile",
    "mamba_ssm": "use the model's own path in plain torch, where it has one",
    "causal_conv1d": "use torch.nn.functional.conv1d, padded on the left",
    "flashinfer": "use torch.nn.functional.scaled_dot_product_attention",
    "sageattention": "use torch.nn.functional.scaled_dot_product_attention",
    "deepspeed_kernels": "use DeepSpeed without its kernels",
    "tinycudann": "use the layers of torch.nn",
    "spconv": "use dense convolutions of torch.nn",
    "MinkowskiEngine": "use dense convolutions of torch.nn",
    "nvdiffrast": "render with a package that has a path for the CPU",
    "pynvml": "ask torch.cuda, which answers for the target",
}
"""Import name to what to do without the package; None where torchdevice has a substitute."""

# Newer releases of these compute on the CPU and on MPS by themselves.
_WITH_OTHER_KERNELS = ("bitsandbytes",)

SUBSTITUTES = tuple(name for name, advice in PACKAGES.items() if advice is None)
"""The packages for which `substitutes=` may ask."""


def note_about(module: str) -> str:
    """What to do about a module of a package in `PACKAGES` that cannot be imported.

    Args:
        module: Its full name.

    Returns:
        One sentence.
    """
    package = module.partition(".")[0]
    advice = PACKAGES[package]
    if package in _substituted():
        return (
            f"torchdevice: the substitute for {package} has no module {module}: use what "
            f"docs/substitutes.md lists, or torch operators."
        )
    if advice is not None:
        return f"torchdevice: {package} {_BY_HAND}{advice}."
    if package in _WITH_OTHER_KERNELS:
        need = "is missing: install a release that computes on the target, or ask"
    else:
        need = "needs an NVIDIA GPU: ask"
    return (
        f"torchdevice: {package} {need} for a substitute built on torch by "
        f'torchdevice run --substitute {package}, enable(substitutes=["{package}"]) or '
        f"TORCHDEVICE_SUBSTITUTES={package}."
    )


def _substituted() -> Iterable[str]:
    """The packages for which a substitute is in place."""
    substitutes = sys.modules.get(f"{__package__}._substitutes")
    return () if substitutes is None else substitutes.in_place()


class _NotesOnMissing:
    """The last finder: who is asked by it was found by no other."""

    def __init__(self, applies: Callable[[], bool]) -> None:
        self._applies = applies

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> None:
        """Raise what Python is about to raise, with a note; None for who only looks."""
        if fullname.partition(".")[0] not in PACKAGES:
            return
        if not _is_import(sys._getframe(1)) or not self._applies():
            return
        later = sys.meta_path[sys.meta_path.index(self) + 1 :] if self in sys.meta_path else []
        if any(_finds(finder, fullname, path, target) for finder in later):
            return
        _fail(_error(fullname))


def _is_import(frame: types.FrameType) -> bool:
    """Whether a finder is asked by an import, not by `importlib.util.find_spec` or another."""
    outer = frame.f_back
    return (
        outer is not None
        and frame.f_code.co_filename == outer.f_code.co_filename == _BOOTSTRAP
        and outer.f_code.co_name == "_find_and_load_unlocked"
    )


def _finds(finder: object, *asked: object) -> bool:
    find_spec = getattr(finder, "find_spec", None)
    return find_spec is not None and find_spec(*asked) is not None


def _error(module: str) -> ModuleNotFoundError:
    message, note = f"No module named {module!r}", note_about(module)
    if sys.version_info < (3, 11):
        return ModuleNotFoundError(f"{message}\n{note}", name=module)
    error = ModuleNotFoundError(message, name=module)
    error.add_note(note)
    return error


_BOOTSTRAP = "<frozen importlib._bootstrap>"


def _fail(error: BaseException) -> None:
    raise error


# Python takes frames of its import system off the traceback of an import that fails. These two
# are part of that system while they run, and a traceback ends at the program's own line.
for _function in (_fail, _NotesOnMissing.find_spec):
    _function.__code__ = _function.__code__.replace(co_filename=_BOOTSTRAP)


def announce_missing(applies: Callable[[], bool]) -> Callable[[], None]:
    """Add a note to the error of each import of a package in `PACKAGES` that is missing.

    Args:
        applies: Whether to add one, asked at each such error.

    Returns:
        What takes this back.
    """
    finder = _NotesOnMissing(applies)
    sys.meta_path.append(finder)

    def take_back() -> None:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)

    return take_back


class _TorchFirst:
    """Imports torch where a program imports a package before, whose substitute comes with it."""

    def __init__(self, packages: Iterable[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """What the finders have that redirection brings with torch."""
        if fullname not in self._packages:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if "torch" in sys.modules:
            return None
        import torch  # noqa: F401

        # The list of finders is another now than the one that Python goes through.
        for finder in list(sys.meta_path):
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None


def before_torch(packages: Sequence[str]) -> None:
    """Have torch imported, and redirection begin, where a substitute is imported first.

    Args:
        packages: Those that were asked for.
    """
    if packages and "torch" not in sys.modules:
        sys.meta_path.insert(0, _TorchFirst(packages))
