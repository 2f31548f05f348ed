"""Settings: one table of them, who wins where several are given, and what a bad one is told."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import torchdevice_mode
from torchdevice_mode._api import RedirectSettings, redirect
from torchdevice_mode._settings import (
    DEFAULTS,
    OF_REDIRECTION,
    OF_RUN,
    SETTINGS,
    Arguments,
    Environment,
    Options,
    RunSettings,
    Settings,
    as_text,
    gather,
)
from torchdevice_mode.errors import SettingsError

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

GOOD = {
    "target": ("cuda:1", "cuda:1"),
    "policy": ("explicit", "explicit"),
    "override": ("Everything", "everything"),
    "dispatch": ("always", "always"),
    "float64": ("cpu", "cpu"),
    "verify": ("0.25", "0.25"),
    "verify_raise": ("yes", True),
    "rng": ("cpu", "cpu"),
    "profile": ("true", True),
    "substitutes": ("flash-attn", ("flash_attn",)),
    "allow_untested": ("1", True),
    "simulate": ("mps", "mps"),
    "log_level": ("info", "INFO"),
    "silence": ("one, two,one", ("one", "two")),
    "report": ("/report.html,/report.json", ("/report.html", "/report.json")),
    "quiet": ("on", True),
}
BAD = {
    "target": ["cudaa!", "cpu:-1", "cpu:-2", "meta", 1.5],
    "policy": ["strict", 1, ["force"]],
    "override": ["nothing"],
    "dispatch": ["never", True],
    "float64": ["double"],
    "verify": ["1.5", "-0.1", "no operator", True, 2],
    "verify_raise": ["perhaps"],
    "rng": ["gpu"],
    "profile": ["perhaps"],
    "substitutes": ["numpy", ["flash_attn", "triton"]],
    "allow_untested": ["perhaps"],
    "simulate": ["toaster"],
    "log_level": ["LOUD", "10", 10, "INFO "],
    "silence": [["a", 1], 3],
    "report": ["report.pdf", "/nowhere/report.html", "/", ["a.html", 3]],
    "quiet": ["rather"],
}


def test_the_table_has_each_setting_once():
    assert [row.name for row in OF_REDIRECTION] == list(Settings._fields)
    assert [row.name for row in OF_RUN] == list(RunSettings._fields)
    for form in ("name", "variable", "key", "flag"):
        assert len({getattr(row, form) for row in SETTINGS}) == len(SETTINGS)


def test_redirect_takes_every_setting_of_a_redirection():
    names = list(inspect.signature(torchdevice_mode.redirect).parameters)
    assert names == [row.name for row in OF_REDIRECTION]


def test_a_device_can_be_simulated_that_the_simulator_knows():
    row = next(row for row in SETTINGS if row.name == "simulate")
    for device in ("mps", "cuda"):
        assert row.read(device) == device
    with pytest.raises(torchdevice_mode.SimulatorError, match="'mps' and 'cuda'"):
        torchdevice_mode.simulate.load("tpu")


def test_defaults():
    assert Settings.load({}) == Settings()
    found = gather(SETTINGS, [Options({}), Environment({})])
    assert {name: one.value for name, one in found.items()} == DEFAULTS
    assert {one.origin for one in found.values()} == {"default"}


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
def test_the_first_place_that_gives_a_value_wins(row):
    given, read = GOOD[row.name]
    (bad, *_) = BAD[row.name]
    option, variable = Options({row.name: given}), Environment({row.variable: given})
    ignored = Environment({row.variable: str(bad)})
    assert gather([row], [option, ignored])[row.name][:2] == (read, f"option {row.flag}")
    argument = gather([row], [Arguments({row.name: given}), ignored])[row.name]
    assert argument[:2] == (read, "argument")
    found = gather([row], [Options({row.name: None}), variable, Options({row.name: bad})])
    assert found[row.name][:2] == (read, f"environment variable {row.variable}")


def test_an_empty_variable_counts_as_absent():
    found = gather(SETTINGS, [Environment({row.variable: "" for row in SETTINGS})])
    assert {name: one.value for name, one in found.items()} == DEFAULTS


@pytest.mark.parametrize(
    ("row", "value"), [(row, value) for row in SETTINGS for value in BAD[row.name]]
)
def test_a_bad_value_is_one_sentence_that_names_its_place(row, value):
    places = {
        f"{row.name}={value!r} ": Arguments({row.name: value}),
        f"{row.flag} {value!r} ": Options({row.name: value}),
    }
    if isinstance(value, str):
        places[f"{row.variable}={value!r} "] = Environment({row.variable: value})
    for place, source in places.items():
        with pytest.raises(SettingsError) as caught:
            gather([row], [source])
        said = str(caught.value)
        assert said.startswith(place) and said.endswith(".") and "\n" not in said
        assert ": give " in said


def test_an_unknown_setting_is_a_type_error():
    with pytest.raises(TypeError, match="colour"):
        Settings.load({}, colour="red")


def test_settings_travel_through_the_environment():
    settings = Settings(
        target="cpu",
        policy="explicit",
        override="everything",
        dispatch="always",
        float64="error",
        verify="mm",
        verify_raise=True,
        rng="cpu",
        allow_untested=True,
    )
    assert Settings.load(settings.to_environment()) == settings
    values = {name: read for name, (_, read) in GOOD.items()}
    found = gather(SETTINGS, [Environment(as_text(SETTINGS, values))])
    assert {name: one.value for name, one in found.items()} == values


# --- documentation ----------------------------------------------------------------------------


def documented(row):
    default = DEFAULTS[row.name]
    shown = "" if default in (None, ()) else f"`{str(default).replace('False', 'false')}`"
    argument = f"`{row.name}`" if row in OF_REDIRECTION else ""
    forms = f"`{row.flag}` | `{row.variable}` | `{row.key}`"
    return f"| {argument} | {forms} | {row.values} | {shown} |"


def test_the_page_has_a_row_for_each_setting_and_no_other():
    rows = [
        line for line in PAGE.read_text().splitlines() if re.match(r"\| *(`\w+`)? *\| `--", line)
    ]
    assert rows == [documented(row) for row in SETTINGS]


def test_the_page_tells_what_each_setting_does():
    text = " ".join(PAGE.read_text().split())
    for row in SETTINGS:
        assert f"- **`{row.key}`**: " in text


def test_type_checkers_know_every_setting():
    names = {row.name for row in OF_REDIRECTION} - {"target"}
    assert set(RedirectSettings.__annotations__) == names
    assert set(inspect.signature(redirect).parameters) - {"target"} == names
