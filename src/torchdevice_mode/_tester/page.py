"""The results as one HTML page, which needs nothing beside it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .._words import counted
from .compare import CATEGORIES
from .text import events, headline, how_many, is_empty, named, one_line

__all__ = ["page"]

_MOST_TESTS = 2_000
_HERE = Path(__file__).parent
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# Categories whose tests are of little interest, one by one.
_ONLY_COUNTED = ("passing alike", "skipped alike")


def page(document: dict[str, Any], *, results: str = ".") -> str:
    """The page.

    Args:
        document: As `document.document` makes it.
        results: The folder of results, as it is reached from the page, for links to logs.

    Returns:
        HTML.
    """
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    title = f"torchdevice test: {shlex.join(document['command'])}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{_text(title)}</title><style>{style}</style></head><body>",
        *_head(document),
        "<main>",
        *_runs(document, results),
    ]
    for comparison in document["comparisons"]:
        parts += _comparison(comparison, results)
    parts += ["</main>", _foot(document), f"<script>{script}</script></body></html>"]
    return "\n".join(parts) + "\n"


def _head(document: dict[str, Any]) -> Iterator[str]:
    counts = [comparison["counts"] for comparison in document["comparisons"]]
    is_bad = is_empty(document) or any("newly failing" in c for c in counts)
    is_open = document["interrupted"] or any("only redirected, failing" in c for c in counts)
    state = "bad" if is_bad else "open" if is_open else "good"
    sentence = headline(document)
    facts = [
        _code(shlex.join(document["command"])),
        f"in {_code(document['folder'])}",
        f"torch {_text(document['torch'])}" if document["torch"] else "",
        f"Python {_text(document['python'])} on {_text(document['platform'])}",
        f'<time datetime="{_text(document["created"])}">{_text(document["created"])}</time>',
    ]
    yield '<header><p class="brand">torchdevice test</p>'
    yield f'<h1 class="{state}">{_text(sentence[:1].upper() + sentence[1:])}</h1>'
    yield f'<p class="facts">{" &middot; ".join(fact for fact in facts if fact)}</p></header>'


def _runs(document: dict[str, Any], results: str) -> Iterator[str]:
    yield '<section aria-labelledby="runs"><h2 id="runs">Runs</h2>'
    # What scrolls is reached by the keyboard.
    yield '<div class="scroll" tabindex="0" role="group" aria-labelledby="runs"><table>'
    yield "<thead><tr><th>Run</th><th>Target</th><th>Outcomes</th><th>Redirected</th>"
    yield '<th class="number">Time</th></tr></thead><tbody>'
    for run in document["runs"]:
        outcomes = " ".join(
            f'<span class="outcome o-{_kind(name)}">{number:,} {_text(name)}</span>'
            for name, number in run["outcomes"].items()
        )
        yield f"<tr><th>{_text(run['run'])}</th><td>{_text(run['target'] or '-')}</td>"
        yield f"<td>{outcomes or 'no tests'}</td><td>{_text(events(run) or '-')}</td>"
        yield f'<td class="number">{run["seconds"]:,.1f} s</td></tr>'
    yield "</tbody></table></div>"
    problems = [(run["run"], problem) for run in document["runs"] for problem in run["problems"]]
    if problems:
        yield "<h3>Files whose tests did not all run</h3><ul>"
        for name, problem in problems[:_MOST_TESTS]:
            yield (
                f"<li>{_text(name)}, {_code(problem['file'])}: {_text(problem['problem'])} "
                f"({_log(problem['log'], results)})</li>"
            )
        yield "</ul>"
    yield "</section>"


def _comparison(comparison: dict[str, Any], results: str) -> Iterator[str]:
    run = comparison["run"]
    against = _text(comparison["against"])
    yield f'<section aria-labelledby="{_text(run)}"><h2 id="{_text(run)}">'
    yield f'{_text(run[:1].upper() + run[1:])}, compared with {against}</h2><ul class="cards">'
    for category, number in comparison["counts"].items():
        meaning = _text(CATEGORIES[category])
        yield f'<li class="c-{_kind(category)}"><strong>{number:,}</strong>'
        yield f'<span class="what">{_text(category)}</span><p>{meaning}</p></li>'
    yield "</ul>"
    if comparison["causes"]:
        yield f"<h3>Why tests fail: {counted(len(comparison['causes']), 'cause')}</h3>"
    tests: dict[int, list[dict[str, Any]]] = {}
    for one in comparison["tests"]:
        tests.setdefault(one.get("cause", 0), []).append(one)
    for cause in comparison["causes"]:
        yield from _cause(comparison, cause, tests.get(cause["cause"], []), results)
    yield from _lists(comparison)
    yield "</section>"


def _cause(
    comparison: dict[str, Any], cause: dict[str, Any], tests: list[dict[str, Any]], results: str
) -> Iterator[str]:
    kind = _kind(cause["category"])
    opened = " open" if cause["cause"] == 1 else ""
    yield f'<details class="cause c-{kind}"{opened}><summary>'
    yield f'<span class="badge">{cause["tests"]:,}</span> <code>{_text(named(cause))}</code>'
    yield f'<span class="quiet">{_text(how_many(comparison, cause))}</span></summary>'
    if cause["place"]:
        yield f"<p>Raised at {_code(cause['place'])}</p>"
    yield f"<p>Repeat the first with</p><pre class='command'>{_text(cause['repeat'])}</pre>"
    if cause["text"]:
        yield f"<p>{_code(cause['first'])} ({_log(cause['log'], results)})</p>"
        yield f'<pre class="trace" tabindex="0">{_text(cause["text"])}</pre>'
    yield from _tests(tests)
    yield "</details>"


def _lists(comparison: dict[str, Any]) -> Iterator[str]:
    began = False
    for category in CATEGORIES:
        tests = [one for one in comparison["tests"] if one["category"] == category]
        has_causes = any("cause" in one for one in tests)
        if not tests or has_causes or category in _ONLY_COUNTED:
            continue
        if not began:
            yield "<h3>Other tests</h3>"
        began, kind = True, _kind(category)
        yield f'<details class="c-{kind}"><summary>{_text(category)}: {counted(len(tests), "test")}'
        yield "</summary>"
        yield from _tests(tests)
        yield "</details>"


def _tests(tests: list[dict[str, Any]]) -> Iterator[str]:
    yield '<ul class="tests">'
    for one in tests[:_MOST_TESTS]:
        change = f"{one['before']} &rarr; {one['after']}"
        said = one.get("reason") or ("" if "cause" in one else one.get("error", ""))
        again = f", repeated: {', '.join(one['again'])}" if one.get("again") else ""
        yield f'<li>{_code(one["test"])} <span class="quiet">{change}{_text(again)}'
        yield f"{': ' + _text(one_line(said)) if said else ''}</span></li>"
    if len(tests) > _MOST_TESTS:
        yield f"<li>and {len(tests) - _MOST_TESTS:,} more, in the JSON report</li>"
    yield "</ul>"


def _foot(document: dict[str, Any]) -> str:
    return (
        f"<footer><p>{_code(document['results'])} has results and logs &middot; torchdevice "
        f"{_text(document['torchdevice'])} &middot; {document['seconds']:,.0f} s</p></footer>"
    )


def _log(path: str, results: str) -> str:
    return f'<a href="{quote(f"{results}/{path}")}">log</a>' if path else "no log"


def _kind(category: str) -> str:
    """The part of a class's name that stands for a category or an outcome."""
    return category.partition(",")[0].replace(" ", "-")


def _code(words: str) -> str:
    return f"<code>{_text(words)}</code>"


def _text(words: object) -> str:
    plain = _COLOURS.sub("", str(words)).encode("utf-8", "backslashreplace").decode()
    return escape("".join(_visible(plain)))


def _visible(words: str) -> Iterable[str]:
    """Signs that HTML cannot hold, or that would hide or turn around others, as their numbers."""
    for sign in words:
        if sign.isprintable() or sign in "\n\t":
            yield sign
        else:
            yield json.dumps(sign)[1:-1]
