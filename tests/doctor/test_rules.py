"""The table of rules, and its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from torchdevice_mode import _packages as told_in_a_run
from torchdevice_mode._doctor._packages import PACKAGES, advice, by_import, by_requirement
from torchdevice_mode._doctor._rules import RULES, STATES, markdown

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


def test_ids_are_unique():
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_says_what_it_is_and_what_to_do(rule):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.id)
    assert rule.title[0].isupper() and not rule.title.endswith(".")
    assert rule.help.endswith(".") and "|" not in rule.help


def test_every_state_has_a_rule():
    assert {f"torch-{state}" for state in STATES} <= {rule.id for rule in RULES}


def test_the_page_has_the_table():
    assert markdown() in PAGE.read_text()


def test_what_a_run_says_of_a_package_is_said_here():
    assert set(told_in_a_run.PACKAGES) <= {package.name for package in PACKAGES}
    assert not [p.name for p in PACKAGES if p.instead and told_in_a_run.PACKAGES.get(p.name)]


@pytest.mark.parametrize(
    ("imported", "advised"),
    [
        ("apex", "Run with --substitute apex."),
        ("apex.optimizers.FusedAdam", "Run with --substitute apex."),
        ("apex.contrib.xentropy", "Use torch's own operators: the substitute for apex has no"),
        ("flash_attn.modules.mha.MHA", "Use torch's own operators: the substitute for flash_attn"),
        ("triton.language", "Write the kernel with"),
    ],
)
def test_a_substitute_is_advised_for_what_it_has(imported, advised):
    assert advice(by_import(imported), imported).startswith(advised)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_is_found_by_its_name(package):
    assert package.needs in ("cuda", "parts")
    assert not package.reason.endswith(".") and not package.instead.endswith(".")
    assert re.fullmatch(r"[A-Z].*[^.]\.", advice(package))
    assert by_import(package.name) is package
    assert by_import(f"{package.name}.part") is not None


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("flash-attn", "flash_attn"),
        ("flash_attn", "flash_attn"),
        ("cupy-cuda12x", "cupy"),
        ("nvidia-cublas-cu12", "nvidia"),
        ("nvidia-ml-py", "nvidia_smi"),
        ("Apex", "apex"),
        ("torch", None),
        ("cupyter", None),
    ],
)
def test_a_requirement_is_found_by_its_name(name, package):
    found = by_requirement(name)
    assert (found.name if found else None) == package
