"""One colour per category, defined once. Okabe and Ito's colours, which stay apart under colour blindness."""

from memplanner.timeline import Category

CATEGORY_COLOURS: dict[Category, str] = {
    "parameters": "#0072B2",
    "adapters": "#56B4E9",
    "gradients": "#D55E00",
    "optimizer_state": "#009E73",
    "projectors": "#F0E442",
    "activations": "#E69F00",
    "temporaries": "#CC79A7",
    "workspaces": "#999999",
    "inputs": "#FFFFFF",
}
ON_LIGHT: dict[str, str] = {"#FFFFFF": "#000000", "#999999": "#606060"}
"""What takes a colour's place where the page is light."""
CATEGORY_GLYPHS: dict[Category, str] = {
    "parameters": "█",
    "adapters": "▓",
    "gradients": "▒",
    "optimizer_state": "░",
    "projectors": "#",
    "activations": "=",
    "temporaries": "~",
    "workspaces": "+",
    "inputs": ".",
}
"""What fills a bar where there is no colour."""

GOOD, WARNING, BAD, ACCENT, MUTED = "#009E73", "#E69F00", "#D55E00", "#56B4E9", "#999999"

VERDICT_COLOURS = {"fits": GOOD, "tight": WARNING, "does-not-fit": BAD}
