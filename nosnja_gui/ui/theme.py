"""Colours and type: the red of embroidery on linen. Fonts are the system's own, nothing is fetched."""

from pathlib import Path

import gradio as gr

STYLES = Path(__file__).with_name("styles")

EMBROIDERY = gr.themes.Color(
    name="embroidery",
    c50="#fdf3f3",
    c100="#fbe4e4",
    c200="#f7cdcd",
    c300="#f0a9a9",
    c400="#e57878",
    c500="#d64b4d",
    c600="#b92f35",
    c700="#9a252c",
    c800="#802228",
    c900="#6b2126",
    c950="#3a0d10",
)


def styles() -> list[Path]:
    """What all tabs share, and then a file per tab."""
    base = STYLES / "base.css"
    return [base, *sorted(file for file in STYLES.glob("*.css") if file != base)]


def theme() -> gr.themes.Base:
    return gr.themes.Default(
        primary_hue=EMBROIDERY,
        neutral_hue="stone",
        radius_size="md",
        font=["system-ui", "Segoe UI", "Helvetica Neue", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400")
