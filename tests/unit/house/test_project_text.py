"""What is committed names no machine, no user and no package index, and holds no key.

One-letter users (`/home/u`) are examples; anything longer is taken for a real one.
"""

import re

from tests.unit.house.tree import ROOT, committed_files, name_of

# Each pattern is written so that it does not match itself.
FORBIDDEN = {
    "a home folder": re.compile(r"(?<![\w.])/(?:home|Users)/[a-z][\w-]{2,}|(?<![\w.$}~])/roo[t]\b"),
    "a package index": re.compile(
        r"(?:files\.)?pythonhoste[d]\.org|pyp[i]\.org/simple|registry\.npm[j]s\.org"
        r"|registry\.yarn[p]kg"
    ),
    "an index option": re.compile(r"--(?:extra-)?index-ur[l][ =]\S+://"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KE[Y]-----"),
    "a token": re.compile(
        r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pos]_[A-Za-z0-9]{30,}|AKI[A][0-9A-Z]{16})\b"
    ),
}


def places() -> dict[str, re.Pattern[str]]:
    """The patterns, with the folder of this very checkout."""
    here = re.compile(re.escape(str(ROOT)) + r"\b") if len(ROOT.parts) > 2 else None
    return {**FORBIDDEN, **({"this checkout": here} if here else {})}


def text_of(data: bytes) -> str | None:
    """The file's text, or None for what is not text."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def test_nothing_private_is_committed() -> None:
    found: list[str] = []
    for path in committed_files():
        text = text_of(path.read_bytes())
        if text is None:
            continue
        found += [
            f"{name_of(path)}: {what}: {match[0]}"
            for what, pattern in places().items()
            for match in pattern.finditer(text)
        ]
    assert found == []


def test_the_patterns_match_what_they_should() -> None:
    user = "some" + "body"
    assert FORBIDDEN["a home folder"].search(f"in /home/{user}/x")
    assert FORBIDDEN["a home folder"].search(f"in /Users/{user}/x")
    assert FORBIDDEN["a home folder"].search("in /ro" + "ot/x")
    assert not FORBIDDEN["a home folder"].search("/home/u/models")
    assert FORBIDDEN["a package index"].search("at pypi." + "org/simple")
    assert not FORBIDDEN["a home folder"].search("docs/home/page and ~/root/x")


def test_no_large_or_built_file_is_committed() -> None:
    sizes = {name_of(path): path.stat().st_size for path in committed_files()}
    assert {name: size for name, size in sizes.items() if size > 1_000_000} == {}
    built = (".pyc", ".so", ".dylib", ".gguf", ".safetensors", ".whl")
    assert [name for name in sizes if name.endswith(built)] == []
