"""Regular expressions of JSON Schema (ECMA 262) in the dialect of the grammar library (Rust's)."""

import re

LONGEST = 2_000
"""Characters of one pattern."""

_SHORTHANDS = {
    "d": "0-9",
    "w": "A-Za-z0-9_",
    "s": r"\t\n\x0b\x0c\r \u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}"
    r"\u{feff}",
}
_PART = re.compile(r"\\u(?P<code>[0-9A-Fa-f]{4})|\\(?P<escape>.)|(?P<mark>[\[\]/])", re.DOTALL)


def translate(pattern: str) -> str:
    r"""Return `pattern` with the same meaning in Rust's dialect.

    There `\d`, `\w` and `\s` mean all of Unicode, where ECMA means ASCII and a fixed list of
    blanks. What Rust does not know (look-around, references back) is left for it to refuse.
    """
    out: list[str] = []
    position, in_class = 0, False
    for part in _PART.finditer(pattern):
        out.append(pattern[position : part.start()])
        position = part.end()
        mark = part["mark"]
        if mark:
            out.append("\\[" if in_class and mark == "[" else mark)
            in_class = mark == "[" or (in_class and mark != "]")
        else:
            out.append(_escape(part, in_class))
    out.append(pattern[position:])
    return "".join(out)


def _escape(part: re.Match[str], in_class: bool) -> str:
    if part["code"]:
        return f"\\u{{{part['code']}}}"
    letter: str = part["escape"]
    members = _SHORTHANDS.get(letter.lower())
    if members is None:
        return "/" if letter == "/" else part.group()
    if letter.isupper():
        return f"[^{members}]"
    return members if in_class else f"[{members}]"
