"""What tests of whole programs share."""

from __future__ import annotations

import pytest
from installation import Installation


@pytest.fixture(scope="module")
def hooked(tmp_path_factory):
    """An installation whose start-up hook finds the package where `PYTHONPATH` says."""
    installation = Installation(tmp_path_factory.mktemp("hooked"))
    installation.add_hook()
    return installation
