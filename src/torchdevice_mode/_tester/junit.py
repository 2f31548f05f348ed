"""The results as JUnit XML, for build services that show tests.

What fails there is what makes the command fail: tests that fail on plain torch too are shown as
skipped, with the error.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

__all__ = ["junit"]

# Signs that XML cannot hold, in whatever form.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(document: dict[str, Any], *, strict: bool = False) -> str:
    """The XML.

    Args:
        document: As `document.document` makes it.
        strict: Whether tests that only the redirected run runs count as failures as well.

    Returns:
        The text of the file.
    """
    root = ElementTree.Element("testsuites", name="torchdevice test")
    for comparison in document["comparisons"]:
        _add_suite(root, document, comparison, strict)
    _count(root)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _add_suite(
    root: ElementTree.Element, document: dict[str, Any], comparison: dict[str, Any], strict: bool
) -> None:
    suite = ElementTree.SubElement(root, "testsuite", name=f"torchdevice.{comparison['run']}")
    seconds = sum(test["seconds"] for test in comparison["tests"])
    # Of no time zone, as the schema has it.
    suite.attrib |= {"time": f"{seconds:.3f}", "timestamp": document["created"][:19]}
    causes = {cause["cause"]: cause for cause in comparison["causes"]}
    for test in comparison["tests"]:
        file, _, name = test["test"].partition("::")
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_clean(f"{comparison['run']}.{file.removesuffix('.py').replace('/', '.')}"),
            name=_clean(name or file),
            time=f"{test['seconds']:.3f}",
        )
        _add_outcome(case, test, causes.get(test.get("cause", 0)), strict)
    _count(suite)
    suite.set("skipped", str(len(suite.findall(".//skipped"))))


def _add_outcome(
    case: ElementTree.Element, test: dict[str, Any], cause: dict[str, Any] | None, strict: bool
) -> None:
    category, said = test["category"], test.get("error", "")
    if category == "newly failing" or (strict and category == "only redirected, failing"):
        kind = "failure" if test["after"] == "failed" else "error"
        message = f"{category}: {said}"
        type_ = cause["type"] if cause is not None else ""
        failure = ElementTree.SubElement(case, kind, type=_clean(type_), message=_clean(message))
        if cause is not None:
            failure.text = _clean(f"{cause['text']}\n\nRepeat with: {test.get('repeat', '')}")
    elif category in ("passing alike", "newly passing", "only redirected, passing", "flaky"):
        return
    else:
        message = f"{category}: {said or test.get('reason', '')}".rstrip(": ")
        ElementTree.SubElement(case, "skipped", message=_clean(message))


def _count(element: ElementTree.Element) -> None:
    for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
        element.set(name, str(len(element.findall(f".//{tag}"))))


def _clean(words: str) -> str:
    return _FORBIDDEN.sub(lambda match: f"\\x{ord(match[0]):02x}", words)
