"""The pytest plugin: `--torchdevice`, `--torchdevice-simulate`, and two fixtures.

It acts before test modules are imported, so that code which asks for CUDA at import time is
redirected too. Loaded without its options it does nothing, and it does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

__all__: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("torchdevice", "redirect PyTorch devices")
    group.addoption(
        "--torchdevice",
        nargs="?",
        const="",
        default=None,
        metavar="TARGET",
        help="redirect every test, to TARGET or to what the machine has",
    )
    group.addoption(
        "--torchdevice-simulate",
        default=None,
        metavar="DEVICE",
        help="simulate DEVICE (mps or cuda) on the CPU",
    )


def pytest_configure(config: pytest.Config) -> None:
    import torchdevice_mode

    device = config.getoption("--torchdevice-simulate")
    target = config.getoption("--torchdevice")
    try:
        if device is not None:
            torchdevice_mode.simulate.load(device)
        if target is not None:
            torchdevice_mode.enable(target=target or None)
            config.add_cleanup(torchdevice_mode.disable)
    except torchdevice_mode.TorchDeviceError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture
def torchdevice_redirect() -> Iterator[object]:
    """Redirection for one test."""
    import torchdevice_mode

    with torchdevice_mode.redirect() as redirection:
        yield redirection


@pytest.fixture
def simulated_mps() -> object:
    """The simulated `mps` device; once loaded it stays for the process."""
    import torchdevice_mode

    torchdevice_mode.simulate.load("mps")
    return torchdevice_mode.simulate


@pytest.fixture
def simulated_cuda() -> object:
    """The simulated `cuda` device; once loaded it stays for the process."""
    import torchdevice_mode

    torchdevice_mode.simulate.load("cuda")
    return torchdevice_mode.simulate
