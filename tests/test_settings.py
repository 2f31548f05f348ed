"""Settings come from arguments, then from the environment, then from defaults."""

from __future__ import annotations

import pytest

from torchdevice_mode._settings import ENVIRONMENT, Settings
from torchdevice_mode.errors import SettingsError


def test_defaults():
    assert Settings.load({}) == Settings()


def test_an_argument_wins_over_the_environment():
    environment = {"TORCHDEVICE_TARGET": "cpu", "TORCHDEVICE_POLICY": "explicit"}
    settings = Settings.load(environment, target="mps")
    assert (settings.target, settings.policy) == ("mps", "explicit")


@pytest.mark.parametrize(
    ("environment", "arguments", "words"),
    [
        ({}, {"target": "cudaa!"}, "target='cudaa!'"),
        ({}, {"target": "cpu:-1"}, "target='cpu:-1'"),
        ({}, {"target": "meta"}, "target='meta'"),
        ({}, {"policy": "strict"}, "policy='strict'"),
        ({"TORCHDEVICE_POLICY": "strict"}, {}, "TORCHDEVICE_POLICY='strict'"),
        ({"TORCHDEVICE_DISPATCH": "never"}, {}, "TORCHDEVICE_DISPATCH='never'"),
        ({"TORCH_ALLOW_REDIRECTS": "perhaps"}, {}, "TORCH_ALLOW_REDIRECTS='perhaps'"),
    ],
)
def test_a_bad_value_is_an_error_that_names_where_it_came_from(environment, arguments, words):
    with pytest.raises(SettingsError) as caught:
        Settings.load(environment, **arguments)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


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
        allow_untested=True,
    )
    assert Settings.load(settings.to_environment()) == settings


def test_every_setting_has_a_variable():
    assert set(ENVIRONMENT) == set(Settings.__dataclass_fields__)
