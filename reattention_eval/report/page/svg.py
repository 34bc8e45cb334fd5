"""A matplotlib figure as SVG inside a page with a strict content policy: real text, in the page's
own colour, no style attributes, no names that two pictures share."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# stands for the page's colour of text while a figure is drawn
INK = "#123457"
_SIZE = re.compile(r"([\d.]+)px")
_USED = re.compile(r"(?:url\(|href=\")#([^)\"]+)")
_SHRINKS = 1500  # pixels: text is still read at the 1,120 that a page has
# what browsers take as no attribute
_DROPPED = ("font", "font-variant", "mix-blend-mode", "white-space")


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Figures made and written inside can become `inline_svg`s."""
    from matplotlib import rc_context

    named = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = dict.fromkeys(named, INK)
    settings |= {
        "axes.facecolor": "none", "figure.facecolor": "none", "legend.frameon": False,
        "svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False,
    }  # fmt: skip
    with rc_context(settings):
        yield


def inline_svg(figure: Any, name: str, label: str) -> str:
    """The figure as an <svg> element; `name` is unlike any other picture's, `label` says what is
    seen."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(written.getvalue())
    used = set(_USED.findall(written.getvalue()))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
        if parent.get("id") in used:
            used.discard(parent.get("id", ""))  # it may define one thing twice
        else:
            parent.attrib.pop("id", None)
        _restyle(parent, name)
    width = root.attrib.pop("width", "").removesuffix("pt")
    root.attrib.pop("height", None)
    # at its own size or a little smaller on a desk, scrolled sideways on a phone
    wide = float(width) * 4 / 3
    if wide <= _SHRINKS:
        root.set("class", "fits")
    root.attrib |= {"width": f"{wide:.0f}", "role": "img", "aria-label": label,
                    "stroke-linejoin": "round", "stroke-linecap": "butt"}  # fmt: skip
    return ElementTree.tostring(root, encoding="unicode")


def _restyle(element: ElementTree.Element, name: str) -> None:
    style = element.attrib.pop("style", "")
    for part in filter(None, style.split(";")):
        key, _, value = (word.strip() for word in part.partition(":"))
        if key == "font":
            size = _SIZE.search(value)
            element.set("font-size", size.group(1) if size else "10")
            if "bold" in value:
                element.set("font-weight", "bold")
        elif key not in _DROPPED:
            element.set(key, value)
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif value.startswith("#") and key == f"{{{XLINK}}}href":
            element.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))
        elif value == INK:
            element.set(key, "currentColor")
