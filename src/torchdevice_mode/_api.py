"""What users call: `redirect`, `enable`, `disable`, `native`, `explain`.

`redirect` is the one verb; context manager and decorator are spellings of the same entry.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

from . import _active, _session
from ._ledger import Ledger
from ._override import active as override_active
from ._override import cpu_override
from ._policy import Decision, decide
from ._settings import Settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._report import Report
    from ._verify import Difference

__all__ = [
    "Redirect",
    "cpu_override",
    "differences",
    "disable",
    "enable",
    "explain",
    "is_active",
    "ledger",
    "native",
    "redirect",
    "report",
    "target",
]

_T = TypeVar("_T")
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


class RedirectSettings(TypedDict, total=False):
    """Settings beside the target, as type checkers know them; `redirect` describes each."""

    policy: str | None
    override: str | None
    dispatch: str | None
    float64: str | None
    verify: float | str | None
    verify_raise: bool | None
    rng: str | None
    profile: bool | None
    substitutes: Sequence[str] | None
    allow_untested: bool | None


class Redirect:
    """A redirection, as `redirect(...)` gives it: a context manager and a decorator.

    Use `redirect`; the class is public for annotations. Blocks nest and may be entered again.
    """

    def __init__(self, settings: Settings | None) -> None:
        # None stands for plain torch: `native()`.
        self._settings = settings
        self._context: Any = None
        self._entries: list[_session.Entry] = []

    def _enter(self) -> _session.Entry:
        if self._settings is None:
            return _session.enter(None)
        if self._context is None or self._context.machine != _session.machine():
            self._context = _session.new_context(self._settings)
        # Refused for an untested platform: the program runs on plain torch.
        return _session.enter(self._context)

    def __enter__(self) -> Redirect:
        self._entries.append(self._enter())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entries.pop().close()

    def __call__(self, decorated: _T) -> _T:
        """Decorate a function, coroutine function, generator function or class."""
        if isinstance(decorated, type):
            return self._decorate_class(decorated)
        if isinstance(decorated, (staticmethod, classmethod)):
            return type(decorated)(self(decorated.__func__))
        if not callable(decorated):
            raise TypeError(
                f"redirect() decorates functions and classes, not {type(decorated).__name__}."
            )
        if inspect.iscoroutinefunction(decorated):
            return self._decorate_coroutine(decorated)  # type: ignore[return-value]
        if inspect.isasyncgenfunction(decorated):
            return self._decorate_async_generator(decorated)  # type: ignore[return-value]
        if inspect.isgeneratorfunction(decorated):
            return self._decorate_generator(decorated)  # type: ignore[return-value]

        @functools.wraps(decorated)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._step():
                return decorated(*args, **kwargs)

        return call  # type: ignore[return-value]

    @contextmanager
    def _step(self) -> Generator[None, None, None]:
        """One entering of its own, so that threads may run a decorated function at once."""
        entry = self._enter()
        try:
            yield
        finally:
            entry.close()

    def _decorate_class(self, decorated: _T) -> _T:
        """Redirect the methods that the class itself defines."""
        for name, member in list(vars(decorated).items()):
            method = inspect.isfunction(member) or isinstance(member, (staticmethod, classmethod))
            # `__new__` and friends run in the middle of Python's own protocol; `__init__`,
            # `__call__` and the operators are the user's code.
            if method and name not in ("__new__", "__init_subclass__", "__class_getitem__"):
                setattr(decorated, name, self(member))
        return decorated

    # A mode belongs to a thread, and other tasks run on it while a coroutine is suspended. So
    # the redirection is entered for each step, and left at each suspension.

    def _decorate_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            return (yield from self._steps(function(*args, **kwargs)))

        return run

    def _steps(self, iterator: Any) -> Generator[Any, Any, Any]:
        """Drive a generator or a coroutine, redirected while it runs."""
        send, value = iterator.send, None
        try:
            while True:
                try:
                    with self._step():
                        yielded = send(value)
                except StopIteration as stop:
                    return stop.value
                try:
                    send, value = iterator.send, (yield yielded)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    send, value = iterator.throw, error
        finally:
            with self._step():
                iterator.close()

    def _decorate_coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            return await _Awaitable(self._steps(function(*args, **kwargs)))

        return run

    def _decorate_async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            iterator = function(*args, **kwargs)
            value: Any = None
            try:
                while True:
                    try:
                        value = yield await _Awaitable(self._steps(iterator.asend(value)))
                    except StopAsyncIteration:
                        return
            finally:
                await _Awaitable(self._steps(iterator.aclose()))

        return run


class _Awaitable:
    """Makes a generator of steps something to await."""

    def __init__(self, steps: Generator[Any, Any, Any]) -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._steps


@overload
def redirect(target: _Decorated, /) -> _Decorated: ...


@overload
def redirect(target: str | None = None, **settings: Unpack[RedirectSettings]) -> Redirect: ...


def redirect(
    target: Any = None,
    *,
    policy: str | None = None,
    override: str | None = None,
    dispatch: str | None = None,
    float64: str | None = None,
    verify: float | str | None = None,
    verify_raise: bool | None = None,
    rng: str | None = None,
    profile: bool | None = None,
    substitutes: Sequence[str] | None = None,
    allow_untested: bool | None = None,
) -> Any:
    """Run code written for one accelerator on the one that the machine has.

    Args:
        target: Where requests go, such as `"mps"`, `"cuda:1"` or `"cpu"`; by default the
            environment variable TORCHDEVICE_TARGET, then MPS, CUDA, another accelerator, the
            CPU.
        policy: `"force"` (default) also moves requests for the CPU and requests without a
            device; `"explicit"` moves only requests for an accelerator that is not there.
        override: What the CPU override holds: `"cpu"` (default) or `"everything"`.
        dispatch: `"auto"` (default) or `"always"`, which also catches every request made in
            C++, at several microseconds an operator.
        float64: On a target without it: `"downcast"` (default), `"cpu"` or `"error"`.
        verify: Share of operator calls that are repeated on the CPU and compared, such as 0.01;
            or the name of an operator, such as `"aten::mm"`, for all of its calls. What differs
            is warned of once a line, and listed by `differences()`. It takes time.
        verify_raise: Raise `VerificationError` instead of warning.
        rng: Where random numbers are drawn: `"target"` (default), or `"cpu"`, which gives those
            of a run on the CPU.
        profile: Time every operator, for `report()`; slow, since the target is waited for after
            each.
        substitutes: Packages that need CUDA, such as `"flash_attn"`, for which substitutes built
            on torch's operators stand in.
        allow_untested: Redirect on platforms and torch versions never tested with.

    Returns:
        A context manager that is also a decorator for functions, methods, coroutine functions,
        generator functions and classes. It holds for the thread that enters it and for the
        threads which that one starts.

    Raises:
        SettingsError: If a value, given here or in the environment, is not one it can have.
        TargetError: On entering, if the target is not on this machine.
    """
    if callable(target):
        # `@redirect` without parentheses.
        return redirect()(target)
    return Redirect(
        _settings(
            target=target,
            policy=policy,
            override=override,
            dispatch=dispatch,
            float64=float64,
            verify=verify,
            verify_raise=verify_raise,
            rng=rng,
            profile=profile,
            substitutes=substitutes,
            allow_untested=allow_untested,
        )
    )


def _settings(**arguments: Any) -> Settings:
    return Settings.load(os.environ, **arguments)


def enable(target: str | None = None, **settings: Unpack[RedirectSettings]) -> None:
    """Redirect in every thread of the process until `disable()`.

    Enabling twice with the same settings changes nothing; other settings replace the first.

    Args:
        target: As for `redirect`.
        **settings: As for `redirect`.

    Raises:
        SettingsError: If a value is not one it can have; nothing changes then.
        TargetError: If the target is not on this machine; nothing changes then.
    """
    _session.enable(_settings(target=target, **settings))


def disable() -> None:
    """End what `enable()` began and put torch back; does nothing where nothing is enabled."""
    _session.disable()


def native() -> Redirect:
    """Plain torch inside a redirection: a context manager and a decorator.

    Returns:
        What turns redirection off for the thread, until it is left.
    """
    return Redirect(None)


def is_active() -> bool:
    """Whether torch calls of this thread are redirected."""
    return _active.current() is not None


def target() -> str | None:
    """The device that requests go to in this thread, such as `"mps:0"`; None for plain torch."""
    context = _active.current()
    return None if context is None else str(context.target)


def explain(
    request: object = None, *, target: str | None = None, **settings: Unpack[RedirectSettings]
) -> Decision:
    """What a request for a device gets, and why, without carrying it out.

    Args:
        request: A device in any form, or None for no device.
        target: As for `redirect`.
        **settings: As for `redirect`; by default those that hold in this thread.

    Returns:
        The decision, with its reason.
    """
    context = _active.current()
    if context is not None and target is None and not settings:
        chosen = context.settings
    else:
        chosen = _settings(target=target, **settings)
    machine = context.machine if context is not None else _session.machine()
    return decide(request, machine, chosen, override_active())


def differences() -> list[Difference]:
    """What `verify=` found in this process so far: the largest of each operator and line."""
    from . import _verify

    return _verify.differences()


def report() -> Report:
    """What was redirected so far, where, and what that cost, with what to write instead.

    Like `ledger()` it is of this process and of those that it started.

    Returns:
        An object that does not change any more; its methods `text()`, `to_json()`, `html()` and
        `write(path)` give it in other forms.
    """
    from . import _reporting

    context = _active.current() or _session.latest
    settings = context.settings if context is not None else _settings()
    return _reporting.make(ledger(), context, settings)


def ledger() -> Ledger:
    """What was redirected so far, by call site: in this process, and in those that it started.

    Those tell when they end; `unreported` counts those that were killed.
    """
    _session.family.collect()
    return _session.ledger
