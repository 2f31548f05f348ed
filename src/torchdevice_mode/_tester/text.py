"""The results as text and as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._summary import in_words
from .._words import counted
from .compare import CATEGORIES

__all__ = ["events", "headline", "how_many", "is_empty", "markdown", "named", "one_line", "text"]

_MOST_CAUSES = 10
_MOST_TESTS = 5
_MOST_IN_MARKDOWN = 20
_LONGEST = 160
_LONGEST_TRACEBACK = 3_000


def one_line(message: str, most: int = _LONGEST) -> str:
    """The first line of a message that says something, cut where it is long."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return line if len(line) <= most else line[: most - 3] + "..."


def named(cause: dict[str, Any]) -> str:
    """A cause in one line."""
    return f"{cause['type']}: {one_line(cause['message'])}".strip(": ") or "no error was told"


def events(run: dict[str, Any]) -> str:
    """What was redirected in a run."""
    return in_words(run["events"])


def how_many(comparison: dict[str, Any], cause: dict[str, Any]) -> str:
    """How many tests a cause has, and of what category: of several, the most important."""
    category, number = cause["category"], cause["tests"]
    tests = [one for one in comparison["tests"] if one.get("cause") == cause["cause"]]
    share = sum(one["category"] == category for one in tests)
    if share == number:
        return f"{counted(number, 'test')} {category}"
    return f"{counted(number, 'test')}, {share:,} of them {category}"


def headline(document: dict[str, Any]) -> str:
    """What came out, in one sentence."""
    newly = _by_run(document, "newly failing")
    total = _number(newly)
    if is_empty(document):
        return "no test was run"
    if document["interrupted"]:
        return f"interrupted; {counted(total, 'test')} newly failing so far"
    if total:
        verbs = ("passes", "fails") if total == 1 else ("pass", "fail")
        sentence = f"{counted(total, 'test')} {verbs[0]} on plain torch and {verbs[1]} redirected"
    else:
        sentence = "no test that passes on plain torch fails redirected"
    sentence += _each(newly)
    only = _by_run(document, "only redirected, failing")
    failing = _number(only)
    if failing:
        noun = counted(failing, "test")
        verbs = ("runs", "fails") if failing == 1 else ("run", "fail")
        sentence += f"; {noun} that only {verbs[0]} redirected {verbs[1]}{_each(only)}"
    return sentence


def is_empty(document: dict[str, Any]) -> bool:
    """Whether there is nothing to say of redirection, since no test came to run."""
    return bool(document["exit_code"] == 2)


def _by_run(document: dict[str, Any], category: str) -> dict[str, set[tuple[str, str]]]:
    return {
        comparison["run"]: {
            (one["file"], one["test"]) for one in comparison["tests"] if one["category"] == category
        }
        for comparison in document["comparisons"]
    }


def _number(tests: dict[str, set[tuple[str, str]]]) -> int:
    """How many there are, one that is in several runs being one."""
    return len(set().union(*tests.values()))


def _each(tests: dict[str, set[tuple[str, str]]]) -> str:
    if len(tests) == 1 or not _number(tests):
        return ""
    return f" ({', '.join(f'{len(found):,} {run}' for run, found in tests.items())})"


def text(document: dict[str, Any]) -> str:
    """The summary at the end of the command.

    Args:
        document: As `document.document` makes it.

    Returns:
        Lines, without a newline at the end.
    """
    return "\n".join(_lines(document))


def _lines(document: dict[str, Any]) -> Iterator[str]:
    for run in document["runs"]:
        yield f"{_title(run)}: {_outcomes(run)} in {counted(run['files'], 'file')}"
        for problem in run["problems"][:_MOST_TESTS]:
            yield f"  {problem['file']}: {problem['problem']}"
        if len(run["problems"]) > _MOST_TESTS:
            yield f"  and {len(run['problems']) - _MOST_TESTS:,} more such files"
    for comparison in document["comparisons"]:
        yield ""
        yield f"{comparison['run']}, compared with {comparison['against']}:"
        width = max((len(f"{n:,}") for n in comparison["counts"].values()), default=1)
        for category, number in comparison["counts"].items():
            yield f"  {number:>{width},}  {category}: {CATEGORIES[category]}"
        yield from _causes(document, comparison)
    if not is_empty(document):  # else an error says so
        yield ""
        yield f"torchdevice: {headline(document)}"


def _causes(document: dict[str, Any], comparison: dict[str, Any]) -> Iterator[str]:
    for cause in comparison["causes"][:_MOST_CAUSES]:
        yield ""
        yield f"  {how_many(comparison, cause)}: {named(cause)}"
        if cause["place"]:
            yield f"    at      {cause['place']}"
        tests = [one["test"] for one in comparison["tests"] if one.get("cause") == cause["cause"]]
        for test in tests[:_MOST_TESTS]:
            yield f"    test    {one_line(test)}"
        if len(tests) > _MOST_TESTS:
            yield f"            and {len(tests) - _MOST_TESTS:,} more"
        yield f"    repeat  {cause['repeat']}"
        yield f"    log     {Path(document['results'], cause['log'])}"
    if len(comparison["causes"]) > _MOST_CAUSES:
        yield f"  and {counted(len(comparison['causes']) - _MOST_CAUSES, 'more cause')}"


def _title(run: dict[str, Any]) -> str:
    return f"{run['run']} ({run['target']})" if run["target"] else str(run["run"])


def _outcomes(run: dict[str, Any]) -> str:
    outcomes = [f"{number:,} {name}" for name, number in run["outcomes"].items()]
    return ", ".join(outcomes) or "no tests"


# --- Markdown ----------------------------------------------------------------------------------


def markdown(document: dict[str, Any]) -> str:
    """A page for a comment on a change, or for the summary of a build.

    Args:
        document: As `document.document` makes it.

    Returns:
        The page.
    """
    return "\n".join(_page(document)) + "\n"


def _page(document: dict[str, Any]) -> Iterator[str]:
    yield "# torchdevice test"
    yield ""
    yield f"**{_sentence(headline(document))}**"
    yield ""
    versions = f"torch {document['torch']}, Python {document['python']}"
    yield f"{_code(shlex.join(document['command']))}, {versions}"
    yield ""
    yield from _table(
        ["run", "target", "outcomes", "redirected"],
        [[run["run"], run["target"], _outcomes(run), events(run)] for run in document["runs"]],
    )
    problems = [(run["run"], one) for run in document["runs"] for one in run["problems"]]
    if problems:
        yield "Files whose tests did not all run:"
        yield ""
    for run, problem in problems[:_MOST_IN_MARKDOWN]:
        yield f"- {run}, {_code(problem['file'])}: {_escaped(problem['problem'])}"
    if len(problems) > _MOST_IN_MARKDOWN:
        yield f"- and {len(problems) - _MOST_IN_MARKDOWN:,} more"
    if problems:
        yield ""
    for comparison in document["comparisons"]:
        yield f"## {_sentence(comparison['run'])}"
        yield ""
        rows = [[f"{n:,}", c, CATEGORIES[c]] for c, n in comparison["counts"].items()]
        yield from _table(["tests", "category", "meaning"], rows)
        for cause in comparison["causes"][:_MOST_IN_MARKDOWN]:
            yield from _cause(comparison, cause)
        left = len(comparison["causes"]) - _MOST_IN_MARKDOWN
        if left > 0:
            yield f"And {counted(left, 'more cause')}."
            yield ""


def _cause(comparison: dict[str, Any], cause: dict[str, Any]) -> Iterator[str]:
    title = how_many(comparison, cause)
    yield f"<details><summary>{title}: {_escaped(named(cause))}</summary>"
    yield ""
    tests = [one["test"] for one in comparison["tests"] if one.get("cause") == cause["cause"]]
    for test in tests[:_MOST_IN_MARKDOWN]:
        yield f"- {_code(test)}"
    if len(tests) > _MOST_IN_MARKDOWN:
        yield f"- and {len(tests) - _MOST_IN_MARKDOWN:,} more"
    yield ""
    yield from _block(cause["repeat"], "console")
    if cause["text"]:
        yield from _block(cause["text"][-_LONGEST_TRACEBACK:], "text")
    if cause["log"]:
        yield f"The log is {_code(cause['log'])} in the folder of results."
        yield ""
    yield "</details>"
    yield ""


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(_escaped(cell).replace("|", "\\|") for cell in row) + " |"
    yield ""


def _escaped(words: str) -> str:
    for sign, stands_for in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        words = words.replace(sign, stands_for)
    return " ".join(words.split())


def _code(words: str) -> str:
    """A span of code, whatever backquotes and newlines are in it."""
    words = words.encode("unicode_escape").decode() if "\n" in words else words
    longest = _longest_run(words)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{words}{space}{fence}"


def _block(words: str, language: str) -> Iterator[str]:
    fence = "`" * max(3, _longest_run(words) + 1)
    yield f"{fence}{language}"
    yield words
    yield fence
    yield ""


def _longest_run(words: str) -> int:
    longest = current = 0
    for sign in words:
        current = current + 1 if sign == "`" else 0
        longest = max(longest, current)
    return longest
