"""The only maker of markup: elements whose texts and attributes are escaped, whatever they come from."""

from __future__ import annotations

import html
from collections.abc import Iterable

from minipipe import shown

_VOID = frozenset({"br", "hr", "img", "input", "meta", "link"})
# Drawn shapes close themselves; inside HTML that holds for foreign elements alone.
_CASED = frozenset({"viewBox", "patternUnits"})
_EMPTY = frozenset({"path", "rect", "circle", "line", "polyline", "polygon", "use"})


class Markup(str):
    """Text that is markup already. jinja2 knows it by ``__html__`` and leaves it as it is; everything else gets escaped."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


class Lines(str):
    """Plain text of several lines, its control characters already made visible. Still escaped when it becomes markup."""

    __slots__ = ()


Child = object  # Markup, text, numbers, None, or iterables of them


def text(value: object) -> Markup:
    """A value as markup: control characters and bidirectional marks visible, then escaped."""
    if isinstance(value, Markup):
        return value
    shown_text = value if isinstance(value, Lines) else shown.escape(value)
    return Markup(html.escape(shown_text, quote=True))


def lines(value: object) -> Lines:
    """Text of several lines (a log, source) made harmless; line ends and tabs stay."""
    return Lines(shown.escape_lines(value))


def number(value: float) -> str:
    """A coordinate: one decimal at most."""
    return f"{value:.1f}".removesuffix(".0").replace("-0", "0") if abs(value) < 0.05 else f"{value:.1f}".removesuffix(".0")


def element(name: str, *children: Child, **attributes: object) -> Markup:
    """One element.

    Args:
        name: of the element; a constant of our own code.
        children: markup is taken as it is, everything else as text; None is nothing; iterables are joined.
        attributes: ``class_`` is ``class``, ``aria_label`` is ``aria-label``; None and False are left out, True stands alone,
            floats have one decimal.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    words = [name, *(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)]
    start = " ".join(words)
    if name in _EMPTY and not children:
        return Markup(f"<{start}/>")
    if name in _VOID:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Children one after the other."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str) or not isinstance(child, Iterable):
            parts.append(text(child))
        else:
            parts.append(join(child))
    return Markup("".join(parts))


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-") if key not in _CASED else key
    if value is True:
        return name
    return f'{name}="{text(number(value) if isinstance(value, float) else value)}"'
