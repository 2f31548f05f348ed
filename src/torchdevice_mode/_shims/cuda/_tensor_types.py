"""`torch.cuda.FloatTensor` and its sisters, sparse ones and storages: dtype and device in a name.

torch's own are C++ objects that cannot be made on a build without CUDA. These construct on the
target, and are asked by `isinstance`; `x.type(torch.cuda.FloatTensor)` and
`torch.set_default_tensor_type` know them by `_tensor_type_name`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..._out_of_memory import reports_out_of_memory
from ._surface import emulated, end_graph, plain, redirection, target

__all__ = ["default_type_setter"]


class _TensorType(type):
    """Metaclass: the classes make tensors, and ask tensors for dtype and device."""

    dtype: torch.dtype
    is_sparse: bool
    _host: Callable[..., torch.Tensor]
    _path: str

    @reports_out_of_memory
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if redirection() is None:
            return plain(cls._path)(*args, **kwargs)
        kwargs.pop("device", None)
        # What is given may be a tensor or storage on the target; the legacy constructor of the
        # CPU takes neither.
        if len(args) == 1 and isinstance(args[0], torch.Tensor):
            return args[0].detach().to(target(), cls.dtype)
        if args and not cls.is_sparse and all(type(arg) is int for arg in args):
            # Not by way of the CPU, which may have less memory, or more.
            return torch.empty(args, dtype=cls.dtype, device=target())
        return cls._host(*args, **kwargs).to(target())

    def __instancecheck__(cls, instance: object) -> bool:
        if not isinstance(instance, torch.Tensor) or instance.dtype is not cls.dtype:
            return False
        if instance.is_sparse is not cls.is_sparse:
            return False
        if redirection() is None:
            return bool(instance.is_cuda)
        return instance.device.type == target().type

    def __subclasscheck__(cls, subclass: type) -> bool:
        end_graph(f"torch.cuda.{cls._path}")
        return type.__subclasscheck__(cls, subclass)

    def __repr__(cls) -> str:
        return f"<class 'torch.cuda.{cls._path}'>"


_DTYPES = {
    "BFloat16Tensor": torch.bfloat16,
    "BoolTensor": torch.bool,
    "ByteTensor": torch.uint8,
    "CharTensor": torch.int8,
    "DoubleTensor": torch.float64,
    "FloatTensor": torch.float32,
    "HalfTensor": torch.float16,
    "IntTensor": torch.int32,
    "LongTensor": torch.int64,
    "ShortTensor": torch.int16,
}


def _make(path: str, dtype: torch.dtype, host: Callable[..., torch.Tensor]) -> type:
    module, _, name = f"torch.cuda.{path}".rpartition(".")
    sparse = "sparse" in module
    body = {
        "dtype": dtype,
        "layout": torch.sparse_coo if sparse else torch.strided,
        "is_cuda": True,
        "is_sparse": sparse,
        "_host": staticmethod(host),
        "_path": path,
        "_tensor_type_name": f"torch.cuda.{path}",
        "__module__": module,
        "__doc__": f"Tensors of {dtype} on the device that stands for CUDA.",
    }
    return _TensorType(name, (), body)


for _name, _dtype in _DTYPES.items():
    emulated(_name, "constructs on the target")(_make(_name, _dtype, getattr(torch, _name)))


def _sparse(dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    def construct(*args: Any) -> torch.Tensor:
        if args and isinstance(args[0], torch.Tensor):
            indices, values, *size = args
            on_target = indices.to(target()), values.to(target())
            return torch.sparse_coo_tensor(*on_target, *size, dtype=dtype)
        size = list(args[0]) if args and not isinstance(args[0], int) else list(args) or [0]
        made: torch.Tensor = torch.zeros(size, dtype=dtype, device=target()).to_sparse()
        return made

    return construct


for _name, _dtype in _DTYPES.items():
    if _name != "BoolTensor":  # torch has none
        _path = f"sparse.{_name}"
        emulated(_path, "constructs on the target")(_make(_path, _dtype, _sparse(_dtype)))


# --- storages -----------------------------------------------------------------------------------


class _StorageType(type):
    """Metaclass: the classes make storages, and ask storages for dtype and device."""

    dtype: torch.dtype

    @reports_out_of_memory
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if redirection() is None:
            return plain(cls.__name__)(*args, **kwargs)
        return torch.storage.TypedStorage(*args, dtype=cls.dtype, device=target(), **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        if redirection() is None:
            return isinstance(instance, plain(cls.__name__))
        return (
            isinstance(instance, torch.storage.TypedStorage)
            and instance.dtype is cls.dtype
            and instance.device.type == target().type
        )


def _not_available(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{name}: Not available for CUDA storage")

    return refuse


_STORAGE_DTYPES = {
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    **{name.removesuffix("Tensor"): dtype for name, dtype in _DTYPES.items()},
}

for _name, _dtype in _STORAGE_DTYPES.items():
    _body = {
        "dtype": _dtype,
        "is_cuda": True,
        "is_sparse": False,
        "from_buffer": staticmethod(_not_available("from_buffer")),
        "__module__": "torch.cuda",
    }
    emulated(f"{_name}Storage", "constructs on the target")(
        _StorageType(f"{_name}Storage", (), _body)
    )


def default_type_setter(original: Callable[..., None]) -> Callable[..., None]:
    made_default: list[torch.device] = []

    def set_default_tensor_type(t: Any, /) -> None:
        context = redirection()
        name = getattr(t, "_tensor_type_name", t)
        dtype = _DTYPES.get(str(name).removeprefix("torch.cuda."))
        if context is None or dtype is None:
            if made_default:
                made_default.clear()
                torch.set_default_device(None)
            return original(t)
        torch.set_default_dtype(dtype)
        # Under the policy that moves every request, the target is where they go already.
        device = target()
        if device.type != "cpu" and context.resolve(None).device != device:
            torch.set_default_device(device)
            made_default.append(device)
        return None

    set_default_tensor_type.__doc__ = original.__doc__
    set_default_tensor_type.__module__ = original.__module__
    return set_default_tensor_type
