"""What to take from a hub repository: references, and the choice among the files it lists."""

import re
from collections import defaultdict
from pathlib import PurePosixPath

import msgspec

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.models.description import Format
from opta_lmx.models.folder_info import PICKLES, no_weights, refuse_pickles
from opta_lmx.models.names import checked_name, suggested_name, valid_name
from opta_lmx.models.selection import belongs

PREFERRED = "Q4_K_M"
MAX_FILES = 4096
_REF = re.compile(
    r"(?P<repo>[^/@\s]+/[^/@\s]+)(/(?P<file>[^@\s]+\.gguf))?(@(?P<revision>[A-Za-z0-9._/-]{1,200}))?",
    re.IGNORECASE,
)
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_QUANT = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|MXFP4\w*|NVFP4\w*|BF16|F16|F32|FP16|FP32))(?=[-.]|$)",
    re.IGNORECASE,
)
_FOUR_BIT = re.compile(r"(UD-)?(I?Q4|MXFP4|NVFP4)", re.IGNORECASE)


class HubRef(msgspec.Struct, frozen=True):
    """A model on the hub: `org/name`, `org/name@revision`, `org/name/file.gguf`, or both."""

    repo: str
    file: str | None = None
    revision: str | None = None

    @property
    def model_name(self) -> str:
        """The name it gets here: that of the repository, or of the one file asked for."""
        if self.file is None:
            return self.repo
        stem = PurePosixPath(self.file).stem
        part = _PART.fullmatch(PurePosixPath(self.file).name)
        return f"{self.repo.partition('/')[0]}/{suggested_name(part[1] if part else stem)}"


class HubFile(msgspec.Struct, frozen=True):
    """One file of a repository: SHA-256 where git LFS holds it, git's own SHA-1 otherwise."""

    path: str
    size: int
    sha256: str | None = None
    blob_sha1: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """The files to download; `main` is the GGUF file to open, "" for a folder."""

    format: Format
    files: tuple[HubFile, ...]
    main: str


def parse_ref(text: str) -> HubRef:
    """Read a reference; LmxError (code `invalid_model_name`, param `model`) when it is none."""
    match = _REF.fullmatch(text)
    if match is None or not valid_name(match["repo"]) or ".." in text or "//" in text:
        raise invalid(
            f"'{text[:120]}' is no model of the hub: write org/name, org/name@revision or "
            "org/name/file.gguf.",
            param="model",
            code="invalid_model_name",
        )
    ref = HubRef(match["repo"], match["file"], match["revision"])
    checked_name(ref.model_name)
    return ref


def choose(ref: HubRef, files: list[HubFile]) -> Choice:
    """Choose what to download.

    A named file with its parts; else the safetensors folder, if there is one; else the GGUF
    file in `Q4_K_M`, or the smallest of four bits, or the only one.

    Raises:
        LmxError: INVALID_REQUEST `no_weights` (a named file that is not listed, too) or
            `ambiguous_quantisation`; FORBIDDEN `pickle_refused`.
    """
    if len(files) > MAX_FILES:
        raise no_weights(f"the repository lists more than {MAX_FILES} files")
    variants = _variants(files)
    if ref.file is not None:
        for parts in variants.values():
            if any(part.path == ref.file for part in parts):
                return _gguf(parts)
        raise no_weights(f"the repository has no complete '{ref.file[:120]}'")
    folder = tuple(file for file in files if belongs(file.path))
    names = {file.path for file in folder}
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        return Choice("mlx", folder, "")
    if variants:
        return _gguf(_best(variants))
    if any(file.path.endswith(PICKLES) for file in files):
        raise refuse_pickles()
    raise no_weights("the repository has neither safetensors nor GGUF files")


def quantisation_in(path: str) -> str:
    """The quantisation a GGUF file's name speaks of, in capitals; "" when it does not."""
    found = _QUANT.findall(PurePosixPath(path).stem)
    return str(found[-1]).upper() if found else ""


def _variants(files: list[HubFile]) -> dict[str, tuple[HubFile, ...]]:
    """GGUF models of a repository by path without part numbers; incomplete splits left out."""
    groups: defaultdict[str, dict[int, HubFile]] = defaultdict(dict)
    counts: dict[str, int] = {}
    for file in files:
        name = PurePosixPath(file.path).name.lower()
        if not name.endswith(".gguf") or name.startswith("mmproj") or "imatrix" in name:
            continue
        part = _PART.fullmatch(file.path)
        stem = f"{part[1]}-of-{part[3]}" if part else file.path[: -len(".gguf")]
        groups[stem][int(part[2]) if part else 1] = file
        counts[stem] = int(part[3]) if part else 1
    return {
        stem: tuple(parts[number] for number in sorted(parts))
        for stem, parts in groups.items()
        if sorted(parts) == list(range(1, counts[stem] + 1))
    }


def _best(variants: dict[str, tuple[HubFile, ...]]) -> tuple[HubFile, ...]:
    by_quant = {stem: quantisation_in(stem + ".gguf") for stem in variants}
    preferred = [stem for stem, quant in by_quant.items() if quant == PREFERRED]
    four_bit = [stem for stem, quant in by_quant.items() if _FOUR_BIT.match(quant)]
    candidates = preferred or four_bit or list(variants)
    if not four_bit and len(candidates) > 1:
        raise _ambiguous(variants)
    return variants[min(candidates, key=lambda stem: (_bytes(variants[stem]), stem))]


def _ambiguous(variants: dict[str, tuple[HubFile, ...]]) -> LmxError:
    names = ", ".join(sorted(parts[0].path for parts in variants.values())[:20])
    return invalid(
        f"The repository has several GGUF files and none of four bits; name one of: {names}.",
        param="model",
        code="ambiguous_quantisation",
    )


def _gguf(parts: tuple[HubFile, ...]) -> Choice:
    return Choice("gguf", parts, PurePosixPath(parts[0].path).name)


def _bytes(parts: tuple[HubFile, ...]) -> int:
    return sum(part.size for part in parts)
