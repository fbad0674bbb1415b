"""Presets: a model with what a request to it need not say, each a TOML file in one folder."""

import hashlib
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.types import SamplingParams
from opta_lmx.models.names import MAX_PART, valid_name

FOLDER = "presets"
PREFIX = "preset:"
"""Before a preset's name, where a request names a model."""
MAX_FILE_BYTES = 256 * 1024
_SUFFIX = ".toml"
_MAX_LISTED = 10
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){64}""")
"""A key of more parts than a file may be deep; reading one takes the square of their number."""


class Preset(msgspec.Struct, frozen=True):
    """What one file says.

    Attributes:
        name: the file's, without `.toml`.
        model: reference to the model.
        alias: another name under which the preset is asked for; empty: none.
        system_prompt: put before a conversation that has no instructions of its own.
        warm: the model is kept loaded, unasked, while there is free room for it.
        sampling: how tokens are drawn, as far as it says.
        max_tokens: bound on an answer's tokens.
        stop: strings that end an answer; None: not said.
        template_kwargs: variables for the chat template.
        parameters: all of these as the file has them, for people.
    """

    name: str
    model: str
    description: str = ""
    alias: str = ""
    system_prompt: str = ""
    warm: bool = False
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    template_kwargs: dict[str, Any] = {}
    parameters: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """What a request asks for."""
        return PREFIX + self.name

    @property
    def shapes_text(self) -> bool:
        """True where it says more than which model is meant."""
        return bool(self.parameters or self.system_prompt)

    @property
    def digest(self) -> str:
        """Differs where an answer may; empty where it says only which model is meant."""
        if not self.shapes_text:
            return ""
        said = (self.system_prompt, self.sampling, self.max_tokens, self.stop)
        whole = msgspec.json.encode((said, self.template_kwargs), order="sorted")
        return hashlib.sha256(whole).hexdigest()


class Refused(msgspec.Struct, frozen=True):
    """A file that is no preset, or one without its alias.

    `param` is the key at fault, dotted, where it is one.
    """

    file: str
    message: str
    code: str
    param: str | None = None


class Reloaded(msgspec.Struct, frozen=True):
    """What reading the folder came to, by names of presets.

    `kept` are those whose file cannot be used any more: they stay as they were.
    """

    presets: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()


Parse = Callable[[str, dict[str, Any]], Preset]
"""Makes a preset of its name and decoded file; raises LmxError with the dotted `param`."""


class _State(msgspec.Struct, frozen=True):
    """The presets by name and by alias, both in lower case."""

    by_name: Mapping[str, Preset] = {}
    by_alias: Mapping[str, Preset] = {}


class Found(msgspec.Struct, frozen=True):
    """A reading of the folder, for `Presets.take`."""

    result: Reloaded
    state: _State


class Presets:
    """The presets of a folder, as they were last read. Callable from any thread, but for `take`.

    Args:
        folder: holds the files; it need not exist.
        parse: reads one.
    """

    def __init__(self, folder: Path, parse: Parse) -> None:
        self._folder = folder
        self._parse = parse
        self._state = _State()
        self.refused: tuple[Refused, ...] = ()

    def list(self) -> tuple[Preset, ...]:
        """All of them, by name."""
        return tuple(self._state.by_name.values())

    def get(self, name: str) -> Preset:
        """One by its name; case does not matter. Raises NOT_FOUND `preset_not_found`."""
        found = self._state.by_name.get(name.lower())
        if found is None:
            raise LmxError(
                ErrorKind.NOT_FOUND, self._missing(name), code="preset_not_found", param="name"
            )
        return found

    def asked(self, ref: str) -> Preset | None:
        """The preset that `preset:NAME` means; None for other references.

        Raises:
            LmxError: MODEL_NOT_FOUND naming the presets there are.
        """
        if not ref.lower().startswith(PREFIX):
            return None
        name = ref[len(PREFIX) :]
        found = self._state.by_name.get(name.lower())
        if found is None:
            raise LmxError(ErrorKind.MODEL_NOT_FOUND, self._missing(name), param="model")
        return found

    def aliased(self, alias: str) -> Preset | None:
        """The preset of an alias; case does not matter."""
        return self._state.by_alias.get(alias.lower())

    def _missing(self, name: str) -> str:
        names = [f"'{preset.name}'" for preset in self.list()]
        more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
        there = f"There are {', '.join(names[:_MAX_LISTED])}{more}." if names else "There is none."
        return f"The preset '{name[:200]}' does not exist. {there}"

    def read(self, check_alias: Callable[[str], None]) -> Found:
        """Read the folder anew, changing nothing yet; one reading at a time.

        A file that cannot be used takes no good preset away.

        Args:
            check_alias: raises LmxError for an alias that means something else already.
        """
        reading = _Reading(self._state, check_alias)
        try:
            files = _files(self._folder)
        except OSError as error:
            names = tuple(preset.name for preset in self.list())
            refused = (_unreadable(FOLDER, error),)
            return Found(Reloaded(names, kept=names, refused=refused), self._state)
        for path in files:
            reading.take(path, self._parse)
        return reading.finished()

    def take(self, found: Found) -> Reloaded:
        """Go by a reading from now on; on the event loop, so no request sees some of both."""
        self._state, self.refused = found.state, found.result.refused
        return found.result


class _Reading:
    """One reading of the folder."""

    def __init__(self, before: _State, check_alias: Callable[[str], None]) -> None:
        self._before = before.by_name
        self._check_alias = check_alias
        self._read: dict[str, Preset | None] = {}
        self._refused: list[Refused] = []
        self._names: dict[str, Preset] = {}
        self._aliases: dict[str, Preset] = {}

    def take(self, path: Path, parse: Parse) -> None:
        """Read one file, or say why not."""
        name = path.name.removesuffix(_SUFFIX)
        if name.lower() in self._read:
            self._refuse(path.name, _not_usable("another file's name differs in case only"))
            return
        self._read[name.lower()] = None
        try:
            self._read[name.lower()] = parse(name, _decoded(path, name))
        except LmxError as error:
            self._refuse(path.name, error)
        except OSError as error:
            self._refused.append(_unreadable(path.name, error))

    def finished(self) -> Found:
        """Settle whose the aliases are, and tell what has become of all."""
        kept: list[str] = []
        for key in sorted(self._read, key=self._claims_first):
            preset, former = self._read[key], self._before.get(key)
            if preset is not None:
                self._enter(key, preset)
            elif former is not None:
                kept.append(former.name)
                self._enter(key, former)
        names = {key: self._names[key] for key in sorted(self._names)}
        before = self._before
        result = Reloaded(
            presets=tuple(preset.name for preset in names.values()),
            added=tuple(names[key].name for key in names if key not in before),
            changed=tuple(
                names[key].name for key in names if key in before and names[key] != before[key]
            ),
            removed=tuple(before[key].name for key in before if key not in names),
            kept=tuple(sorted(kept)),
            refused=tuple(self._refused),
        )
        return Found(result, _State(names, self._aliases))

    def _claims_first(self, key: str) -> tuple[bool, str]:
        """Those that stay as they were have their aliases before those that are new."""
        return self._read[key] not in (None, self._before.get(key)), key

    def _enter(self, key: str, preset: Preset) -> None:
        """An alias that means something else is all that it costs: models come unasked."""
        try:
            self._check(preset)
        except LmxError as error:
            message = f"{error.message} The preset goes without it."
            self._refused.append(Refused(preset.name + _SUFFIX, message, error.code, error.param))
            preset = msgspec.structs.replace(preset, alias="")
        self._names[key] = preset
        if preset.alias:
            self._aliases[preset.alias.lower()] = preset

    def _check(self, preset: Preset) -> None:
        if not preset.alias:
            return
        other = self._aliases.get(preset.alias.lower())
        if other is not None:
            raise invalid(
                f"The alias '{preset.alias}' is that of preset '{other.name}'.", param="alias"
            )
        self._check_alias(preset.alias)

    def _refuse(self, file: str, error: LmxError) -> None:
        self._refused.append(Refused(file, error.message, error.code, error.param))


def _files(folder: Path) -> list[Path]:
    """Those that should be presets; none where there is no folder."""
    if not folder.exists():
        return []
    return sorted(_visible(folder))


def _visible(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.endswith(_SUFFIX) and not path.name.startswith("."):
            yield path


def _decoded(path: Path, name: str) -> dict[str, Any]:
    """A file's tables. Raises LmxError, or OSError where it cannot be read."""
    if not valid_name(name) or "/" in name:
        raise _not_usable(
            f"its name is no preset's: use up to {MAX_PART} letters, digits, '.', '_' and '-'"
        )
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
        raise _not_usable("it is not a file")
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise _not_usable(f"it is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode()
        if _LONG_KEY.search(text):
            raise _not_usable("it has a key of more than 64 parts")
        return tomllib.loads(text)
    except RecursionError:
        raise _not_usable("it is nested too deeply") from None
    except ValueError as error:
        raise _not_usable(f"it is not valid TOML ({error})") from None


def _not_usable(reason: str) -> LmxError:
    return invalid(f"The file cannot be used: {reason}.", code="invalid_preset")


def _unreadable(file: str, error: OSError) -> Refused:
    return Refused(file, f"It cannot be read: {error.strerror or error}.", "unreadable")
