"""Text from outside made safe for a terminal; apart from the other words because an error's text needs it, and starts with nothing else."""

from __future__ import annotations

import re

# C0, DEL, C1, bidirectional marks and overrides, line separators, the byte order mark, invisible tags, lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_UNSAFE_BUT_TABS = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0a-\x1f"))
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _visible(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escape(text: object) -> str:
    """Text on one line that cannot steer a terminal: control characters and bidirectional marks are made visible."""
    return _UNSAFE.sub(_visible, str(text))


def escape_lines(text: object) -> str:
    """The same for text of several lines: line ends and tabs stay."""
    lines = str(text).replace("\r\n", "\n").split("\n")
    return "\n".join(_UNSAFE_BUT_TABS.sub(_visible, line) for line in lines)
