"""The palette can be read: WCAG AA for every text on its ground, 3:1 for what marks a control or its state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lacache_app.ui.theme import DARK, LIGHT, PAIRS, contrast, css_variables, make_theme

PALETTES = {"light": LIGHT, "dark": DARK}
ASSETS = Path(__file__).resolve().parents[2] / "app" / "ui" / "assets"


def test_contrast_of_known_colours():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the classic that just fails


@pytest.mark.parametrize("name", PALETTES)
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_text_is_readable(name, text, ground):
    assert contrast(PALETTES[name][text], PALETTES[name][ground]) >= 4.5


@pytest.mark.parametrize("name", PALETTES)
@pytest.mark.parametrize("mark", ["outline", "accent"])
@pytest.mark.parametrize("ground", ["surface", "ground"])
def test_controls_and_focus_are_seen(name, mark, ground):
    assert contrast(PALETTES[name][mark], PALETTES[name][ground]) >= 3.0


def test_both_palettes_have_the_same_colours():
    assert LIGHT.keys() == DARK.keys()
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for palette in PALETTES.values() for colour in palette.values())


def test_the_theme_fetches_nothing():
    theme = make_theme()
    assert theme._stylesheets == []
    css = theme._get_theme_css().replace("http://www.w3.org/2000/svg", "")  # the name of a language, not an address
    assert "http" not in css
    assert "@import" not in css


def test_styles_use_the_palette_only():
    """No colour of its own in our style sheets (black for shadows aside), and no variable that does not exist."""
    known = set(re.findall(r"--lc-[a-z-]+", css_variables()))
    for path in ASSETS.glob("*.css"):
        text = path.read_text()
        assert set(re.findall(r"var\((--lc-[a-z-]+)", text)) <= known, path.name
        assert "url(" not in text, path.name
        assert "@import" not in text, path.name
        colours = re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[^{}]*[;}])|rgba?\((?!0 0 0)[^)]*\)", text)
        assert [colour for colour in colours if colour != "#000"] == [], path.name
