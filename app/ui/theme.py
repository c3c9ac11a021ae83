"""The look: one palette in light and dark, system fonts, and how both reach Gradio and our own style sheet.

What it is: `LIGHT` and `DARK` (colour names -> hex), `PAIRS` (which text stands on which ground; a test computes their
contrast), `make_theme` (Gradio's variables from them) and `css_variables` (the same for app/ui/assets/*.css and *.js:
--lc-text, --lc-accent ...).
What it does not know: components. Sizes and places are in assets/app.css.
"""

from __future__ import annotations

import gradio as gr

LIGHT = {
    "ground": "#f7f6f3",  # the page
    "surface": "#ffffff",  # what lies on it
    "raised": "#efede8",  # tables, code, hovered rows
    "text": "#1d2226",
    "muted": "#586069",
    "border": "#dcd8d0",
    "outline": "#8a8f94",  # borders of things that can be filled in: 3:1 on the surface
    "accent": "#0a6b75",
    "accent-hover": "#08565e",
    "accent-soft": "#ddeeef",
    "on-accent": "#ffffff",
    "error": "#a8281e",
    "error-soft": "#fbe9e7",
    "warn": "#7a5200",
    "warn-soft": "#fbf1dc",
}
DARK = {
    "ground": "#121517",
    "surface": "#1a1e21",
    "raised": "#242a2e",
    "text": "#e7eaec",
    "muted": "#a2abb3",
    "border": "#30373c",
    "outline": "#737d85",
    "accent": "#5cc2cb",
    "accent-hover": "#83d3da",
    "accent-soft": "#173338",
    "on-accent": "#06222a",
    "error": "#ff9b90",
    "error-soft": "#3a1f1d",
    "warn": "#efc063",
    "warn-soft": "#352a14",
}
PAIRS = (
    ("text", "ground"), ("text", "surface"), ("text", "raised"), ("text", "accent-soft"), ("text", "error-soft"),
    ("text", "warn-soft"), ("muted", "ground"), ("muted", "surface"), ("muted", "raised"), ("accent", "ground"),
    ("accent", "surface"), ("accent", "accent-soft"), ("on-accent", "accent"), ("on-accent", "accent-hover"),
    ("error", "surface"), ("error", "error-soft"), ("warn", "surface"), ("warn", "warn-soft"),
)  # fmt: skip
"""(text, ground) of everything that is read; each must have a contrast of 4.5:1 (WCAG AA)."""

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
FONT_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

# Gradio's variable -> our colour; the same name in the dark palette becomes its *_dark twin.
_VARIABLES = {
    "body_background_fill": "ground",
    "background_fill_primary": "surface",
    "background_fill_secondary": "raised",
    "block_background_fill": "surface",
    "block_label_background_fill": "surface",
    "panel_background_fill": "surface",
    "body_text_color": "text",
    "body_text_color_subdued": "muted",
    "block_label_text_color": "muted",
    "block_title_text_color": "text",
    "block_info_text_color": "muted",
    "border_color_primary": "border",
    "border_color_accent": "accent",
    "block_border_color": "border",
    "block_label_border_color": "border",
    "panel_border_color": "border",
    "color_accent_soft": "accent-soft",
    "link_text_color": "accent",
    "link_text_color_hover": "accent-hover",
    "link_text_color_active": "accent",
    "link_text_color_visited": "accent",
    "code_background_fill": "raised",
    "input_background_fill": "surface",
    "input_background_fill_focus": "surface",
    "input_border_color": "outline",
    "input_border_color_focus": "accent",
    "input_placeholder_color": "muted",
    "checkbox_background_color": "surface",
    "checkbox_border_color": "outline",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color_selected": "accent",
    "checkbox_border_color_focus": "accent",
    "checkbox_label_background_fill": "surface",
    "checkbox_label_background_fill_hover": "raised",
    "checkbox_label_background_fill_selected": "accent-soft",
    "checkbox_label_border_color": "border",
    "checkbox_label_text_color": "text",
    "checkbox_label_text_color_selected": "text",
    "slider_color": "accent",
    "error_background_fill": "error-soft",
    "error_border_color": "error",
    "error_text_color": "error",
    "error_icon_color": "error",
    "loader_color": "accent",
    "stat_background_fill": "accent-soft",
    "table_even_background_fill": "surface",
    "table_odd_background_fill": "surface",
    "table_border_color": "border",
    "table_text_color": "text",
    "table_row_focus": "accent-soft",
    "accordion_text_color": "text",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent-hover",
    "button_primary_border_color": "accent",
    "button_primary_text_color": "on-accent",
    "button_primary_text_color_hover": "on-accent",
    "button_secondary_background_fill": "surface",
    "button_secondary_background_fill_hover": "raised",
    "button_secondary_border_color": "outline",
    "button_secondary_text_color": "text",
    "button_cancel_background_fill": "surface",
    "button_cancel_background_fill_hover": "error-soft",
    "button_cancel_border_color": "error",
    "button_cancel_text_color": "error",
    "button_cancel_text_color_hover": "error",
}


def make_theme() -> gr.themes.Base:
    """Gradio's theme in our colours; nothing is fetched for it."""
    theme = gr.themes.Base(
        primary_hue=_hue("accent", LIGHT),
        secondary_hue=_hue("accent", LIGHT),
        neutral_hue="stone",
        font=[gr.themes.Font(name) for name in FONT],
        font_mono=[gr.themes.Font(name) for name in FONT_MONO],
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
    )
    values = {name: LIGHT[colour] for name, colour in _VARIABLES.items()}
    values |= {f"{name}_dark": DARK[colour] for name, colour in _VARIABLES.items()}
    return theme.set(
        **values,
        color_accent=LIGHT["accent"],
        block_shadow="none",
        block_shadow_dark="none",
        button_primary_shadow="none",
        button_secondary_shadow="none",
        input_shadow="none",
        input_shadow_focus="0 0 0 2px *color_accent_soft",
        block_border_width="1px",
        input_border_width="1px",
        input_border_width_dark="1px",
        button_border_width="1px",
        button_border_width_dark="1px",
        block_title_text_weight="600",
        button_large_radius="8px",
        button_small_radius="6px",
    )


def css_variables() -> str:
    """:root and .dark with --lc-* for every colour."""

    def block(selector: str, palette: dict[str, str]) -> str:
        return f"{selector} {{ " + " ".join(f"--lc-{name}: {value};" for name, value in palette.items()) + " }"

    return block(":root", LIGHT) + "\n" + block(".dark", DARK) + "\n"


def contrast(first: str, second: str) -> float:
    """WCAG contrast of two colours "#rrggbb", 1 .. 21."""
    bright, dim = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _hue(name: str, palette: dict[str, str]) -> gr.themes.Color:
    """A scale around one colour, for the few places where Gradio takes a step of a hue and no variable."""
    base = palette[name]

    def mix(other: str, share: float) -> str:
        pairs = [(int(base[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
        return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)

    light = {f"c{step}": mix("#ffffff", share) for step, share in zip((50, 100, 200, 300, 400), (0.93, 0.85, 0.7, 0.5, 0.3), strict=True)}  # fmt: skip  # noqa: E501
    dark = {f"c{step}": mix("#000000", share) for step, share in zip((600, 700, 800, 900, 950), (0.1, 0.25, 0.4, 0.55, 0.7), strict=True)}  # fmt: skip  # noqa: E501
    return gr.themes.Color(name=name, c500=base, **light, **dark)
