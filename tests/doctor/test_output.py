"""A diagnosis as SARIF, by what the standard's schema requires."""

from __future__ import annotations

import json
import re

import pytest

from torchdevice_mode._doctor._output import lines, to_sarif
from torchdevice_mode._doctor._project import diagnose
from torchdevice_mode._doctor._rules import RULES

from ._reading import look_up


@pytest.fixture
def diagnosis(tmp_path, monkeypatch):
    """Of a folder with one of everything."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.py").write_text("import flash_attn\nx.to('cuda'); é = x.cuda()\n")
    (tmp_path / "broken.py").write_text("print 'x'\n")
    cell = {"cell_type": "code", "source": "x.cuda()"}
    (tmp_path / "book.ipynb").write_text(json.dumps({"cells": [cell]}))
    (tmp_path / "k.cu").write_text("__global__ void f();\n")
    return diagnose([tmp_path.relative_to(tmp_path)], look_up)


@pytest.fixture
def run(diagnosis):
    document = json.loads(to_sarif(diagnosis))
    assert set(document) == {"$schema", "version", "runs"} and document["version"] == "2.1.0"
    (run,) = document["runs"]
    return run


def test_the_driver_describes_every_rule(run):
    driver = run["tool"]["driver"]
    assert driver["name"] and re.match(r"\d+\.\d+", driver["version"])
    assert [rule["id"] for rule in driver["rules"]] == [rule.id for rule in RULES]
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"] and rule["fullDescription"]["text"]
        assert rule["help"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("note", "warning", "error")


def test_a_result_refers_to_its_rule(run):
    assert len(run["results"]) == 6
    for result in run["results"]:
        rule = run["tool"]["driver"]["rules"][result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"].strip()


def test_a_result_has_a_place(run):
    assert run["columnKind"] == "unicodeCodePoints"
    for result in run["results"]:
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        uri = physical["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", uri) and not uri.startswith("/")
        if uri == "book.ipynb":
            assert "region" not in physical
            assert location["logicalLocations"] == [{"name": "cell 1, line 1", "kind": "member"}]
            continue
        region = physical["region"]
        assert region["startLine"] >= 1 and region["startColumn"] >= 1
        assert (region["endLine"], region["endColumn"]) >= (
            region["startLine"],
            region["startColumn"],
        )


def test_columns_count_characters(run):
    (moved,) = [
        result["locations"][0]["physicalLocation"]["region"]
        for result in run["results"]
        if result["ruleId"] == "tensor-cuda" and "logicalLocations" not in result["locations"][0]
    ]
    assert (moved["startColumn"], moved["endColumn"]) == (19, 27)


def test_the_same_advice_is_given_once(diagnosis):
    text = ["".join(piece for piece, _ in line) for line in lines(diagnosis)]
    advice = [line for line in text if line.lstrip().startswith("-> ")]
    assert len(advice) == len(set(advice)) > 1
