"""The folder of presets: what a reading finds, and that no bad file takes a good preset away."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.json_body import check_tree
from opta_lmx.api.openai.parse import ChatParser
from opta_lmx.api.preset_files import parse_preset
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.models.presets import MAX_FILE_BYTES, Preset, Presets, Reloaded

GOOD = 'model = "starter"\n'
KWARGS = "[parameters.chat_template_kwargs]\n"


class Folder:
    """A folder of presets and what was read of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.presets = Presets(path, parse_preset)
        self.taken: set[str] = set()

    def write(self, name: str, text: str = GOOD) -> None:
        self.path.mkdir(exist_ok=True)
        (self.path / f"{name}.toml").write_text(text)

    def reload(self) -> Reloaded:
        return self.presets.take(self.presets.read(self._check))

    def _check(self, alias: str) -> None:
        if alias in self.taken:
            raise invalid("It is taken.", param="alias")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "presets")


def test_no_folder_is_no_preset(folder: Folder) -> None:
    assert folder.reload() == Reloaded()
    assert folder.presets.list() == ()


def test_what_a_file_says(folder: Folder) -> None:
    folder.write(
        "tutor",
        """
        model = "starter:gguf"
        description = "Explains"
        alias = "my-tutor"
        system_prompt = "You explain."
        warm = true
        [parameters]
        temperature = 0
        seed = 7
        max_tokens = 50
        stop = "END"
        reasoning_effort = "none"
        chat_template_kwargs = { style = "short" }
        """,
    )
    assert folder.reload().presets == ("tutor",)
    preset = folder.presets.get("TUTOR")
    assert (preset.id, preset.model, preset.alias) == ("preset:tutor", "starter:gguf", "my-tutor")
    assert (preset.system_prompt, preset.warm, preset.max_tokens) == ("You explain.", True, 50)
    assert (preset.sampling.temperature, preset.sampling.seed) == (0.0, 7)
    assert preset.sampling.top_p is None
    assert preset.stop == ("END",)
    assert preset.template_kwargs == {
        "reasoning_effort": "none",
        "enable_thinking": False,
        "style": "short",
    }
    assert preset.parameters["reasoning_effort"] == "none"
    assert folder.presets.aliased("MY-TUTOR") is folder.presets.asked("Preset:Tutor") is preset


# fmt: off
BROKEN: list[tuple[str, str | None, str]] = [
    ("", "model", "missing"),
    ("model = 5", "model", "string"),
    ('model = ""', "model", ""),
    ('model = "preset:other"', "model", "preset"),
    (GOOD + 'alias = "preset:x"', "alias", "preset"),
    (GOOD + 'alias = "a b"', "alias", ""),
    (GOOD + "colour = 1", "colour", "unknown"),
    (GOOD + "[parameters]\ntemprature = 1", "parameters.temprature", "unknown"),
    (GOOD + "[parameters]\ntemperature = 3", "parameters.temperature", "2"),
    (GOOD + "[parameters]\ntemperature = nan", "parameters.temperature", "finite"),
    (GOOD + "[parameters]\ntop_k = 1.5", "parameters.top_k", "integer"),
    (GOOD + "[parameters]\nmax_tokens = 0", "parameters.max_tokens", ""),
    (GOOD + '[parameters]\nstop = ["a","b","c","d","e"]', "parameters.stop", ""),
    (GOOD + '[parameters]\nreasoning_effort = "huge"', "parameters.reasoning_effort", ""),
    (GOOD + "[parameters]\nseed = 2026-01-01", "parameters.seed", ""),
    (GOOD + "[parameters.chat_template_kwargs]\nmessages = 1",
     "parameters.chat_template_kwargs", "messages"),
    (GOOD + "parameters = 5", "parameters", ""),
    (GOOD + "warm = 1", "warm", ""),
    (GOOD + 'alias = "starter:gguf"', "alias", "backend"),
    (GOOD + KWARGS + "x = nan", "parameters.chat_template_kwargs.x", "finite"),
    (GOOD + KWARGS + "x = [-inf]", "parameters.chat_template_kwargs.x.0", "finite"),
    (GOOD + KWARGS + "x = 1" + "0" * 40, "parameters.chat_template_kwargs.x", "range"),
    (GOOD + KWARGS + "x = " + "[" * 63 + "]" * 63, None, "file is nested deeper than 64"),
    (GOOD + KWARGS + "a." * 63 + "a = 1", None, "file is nested deeper than 64"),
    (GOOD + KWARGS + "a." * 1500 + "a = 1", None, "key of more than 64 parts"),
    (GOOD + KWARGS + "x = {" + '"a b" . ' * 64 + "a = 1}", None, "key of more than 64 parts"),
    (GOOD + "[" + "'a'." * 64 + "a]", None, "key of more than 64 parts"),
    ("model = ", None, "TOML"),
    ("a = " + "[" * 5000, None, ""),
    ("#" * (MAX_FILE_BYTES + 1), None, "larger"),
]
# fmt: on


@pytest.mark.parametrize(("text", "param", "word"), BROKEN)
def test_a_broken_file_is_named_with_its_key(
    folder: Folder, text: str, param: str | None, word: str
) -> None:
    folder.write("good")
    folder.write("bad", text)
    result = folder.reload()
    assert result.presets == ("good",)
    (refused,) = result.refused
    assert (refused.file, refused.param) == ("bad.toml", param)
    assert word in refused.message
    assert folder.presets.refused == result.refused


def test_what_is_no_file_of_text(folder: Folder) -> None:
    folder.write("good")
    os.mkfifo(folder.path / "pipe.toml")
    (folder.path / "folder.toml").mkdir()
    (folder.path / "gone.toml").symlink_to("nowhere")
    (folder.path / "bytes.toml").write_bytes(b'model = "\xff"')
    folder.write("bad name")
    (folder.path / "notes.txt").write_text("not looked at")
    (folder.path / ".hidden.toml").write_text("not looked at")
    result = folder.reload()
    assert result.presets == ("good",)
    names = [one.file for one in result.refused]
    assert names == ["bad name.toml", "bytes.toml", "folder.toml", "gone.toml", "pipe.toml"]


def test_a_reload_tells_what_changed(folder: Folder) -> None:
    folder.write("a")
    folder.write("b")
    first = folder.reload()
    assert (first.added, first.changed, first.removed) == (("a", "b"), (), ())
    folder.write("b", 'model = "other"')
    folder.write("c")
    (folder.path / "a.toml").unlink()
    second = folder.reload()
    assert second == Reloaded(("b", "c"), added=("c",), changed=("b",), removed=("a",))
    assert folder.presets.get("b").model == "other"
    with pytest.raises(LmxError) as caught:
        folder.presets.get("a")
    assert (caught.value.kind, caught.value.code) == (ErrorKind.NOT_FOUND, "preset_not_found")


def test_a_file_that_breaks_leaves_its_preset(folder: Folder) -> None:
    folder.write("a", GOOD + 'alias = "mine"')
    folder.reload()
    folder.write("a", "model = ")
    folder.write("b", GOOD + 'alias = "mine"')
    result = folder.reload()
    assert (result.presets, result.kept) == (("a", "b"), ("a",))
    assert [one.file for one in result.refused] == ["a.toml", "b.toml"]
    assert folder.presets.get("b").alias == ""
    assert folder.presets.aliased("mine") is folder.presets.get("a")


def test_a_folder_that_cannot_be_read_leaves_all(folder: Folder) -> None:
    folder.write("a")
    folder.reload()
    folder.path.rename(folder.path.with_name("elsewhere"))
    folder.path.write_text("a file in its place")
    result = folder.reload()
    assert (result.presets, result.kept) == (("a",), ("a",))
    assert [one.code for one in result.refused] == ["unreadable"]


def test_an_alias_has_one_meaning(folder: Folder) -> None:
    folder.taken = {"gpt-4o"}
    folder.write("a", GOOD + 'alias = "gpt-4o"')
    folder.write("b", GOOD + 'alias = "mine"')
    folder.write("c", GOOD + 'alias = "MINE"')
    result = folder.reload()
    assert [(preset.name, preset.alias) for preset in folder.presets.list()] == [
        ("a", ""),
        ("b", "mine"),
        ("c", ""),
    ]
    assert [(one.file, one.param) for one in result.refused] == [
        ("a.toml", "alias"),
        ("c.toml", "alias"),
    ]


def test_a_model_that_takes_an_alias_takes_no_preset(folder: Folder) -> None:
    folder.write("a", GOOD + 'alias = "gpt-4o"')
    folder.reload()
    folder.taken = {"gpt-4o"}
    later = folder.reload()
    folder.presets = Presets(folder.path, parse_preset)
    for result in (later, folder.reload()):  # as after a restart
        assert (result.presets, result.kept) == (("a",), ())
        (refused,) = result.refused
        assert (refused.file, refused.param) == ("a.toml", "alias")
        assert "goes without it" in refused.message
    assert folder.presets.aliased("gpt-4o") is None
    folder.taken = set()
    assert folder.reload().changed == ("a",)
    assert folder.presets.aliased("gpt-4o") is folder.presets.get("a")


def test_a_new_file_takes_no_alias_from_an_old_one(folder: Folder) -> None:
    folder.write("z", GOOD + 'alias = "mine"')
    folder.reload()
    folder.write("a", GOOD + 'alias = "mine"')
    result = folder.reload()
    assert (result.presets, [one.file for one in result.refused]) == (("a", "z"), ["a.toml"])
    assert folder.presets.aliased("mine") is folder.presets.get("z")


def test_names_in_a_text_are_no_key(folder: Folder) -> None:
    folder.write("a", GOOD + f'system_prompt = """\n{"So ... on. " * 100}\n{"." * 100} 5"""')
    assert folder.reload().refused == ()


@pytest.mark.parametrize(
    "change",
    [
        {"system_prompt": "Other."},
        {"parameters": {"seed": 1}},
        {"parameters": {"max_tokens": 1}},
        {"parameters": {"stop": "x"}},
        {"parameters": {"chat_template_kwargs": {"x": 1}}},
    ],
    ids=str,
)
def test_a_digest_tells_presets_apart(change: dict[str, Any]) -> None:
    base: dict[str, Any] = {"model": "m", "system_prompt": "One.", "parameters": {}}
    one = parse_preset("p", base)
    assert parse_preset("p", base | change).digest != one.digest
    same = {"description": "d", "alias": "a", "warm": True}
    assert parse_preset("q", base | same).digest == one.digest
    assert parse_preset("p", {"model": "m"}).digest == ""


def test_names_that_differ_in_case_only(folder: Folder) -> None:
    folder.write("Tutor")
    folder.write("tutor")
    if len(list(folder.path.iterdir())) < 2:
        pytest.skip("this file system takes both for one")
    result = folder.reload()
    assert result.presets == ("Tutor",)
    assert [one.file for one in result.refused] == ["tutor.toml"]


def test_an_unknown_preset_is_told_which_there_are(folder: Folder) -> None:
    with pytest.raises(LmxError, match="There is none"):
        folder.presets.asked("preset:x")
    for number in range(12):
        folder.write(f"p{number:02}")
    folder.reload()
    assert folder.presets.asked("x") is None
    with pytest.raises(LmxError) as caught:
        folder.presets.asked("preset:x")
    assert (caught.value.kind, caught.value.param) == (ErrorKind.MODEL_NOT_FOUND, "model")
    assert "'p00'" in caught.value.message
    assert "and 2 more" in caught.value.message


TEXTS = st.sampled_from(
    ["model = ", GOOD, 'model = "b"', *(f'model = "m"\nalias = "{name}"' for name in "xyz")]
)
CHANGES = st.lists(st.tuples(st.sampled_from("abcd"), TEXTS | st.none()), max_size=4)


@given(rounds=st.lists(CHANGES, min_size=2, max_size=4))
def test_only_removing_its_file_takes_a_preset_away(
    rounds: list[list[tuple[str, str | None]]],
) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Folder(Path(root))
        good: set[str] = set()
        for changes in rounds:
            for name, text in changes:
                if text is None:
                    (folder.path / f"{name}.toml").unlink(missing_ok=True)
                else:
                    folder.write(name, text)
            files = {path.stem for path in folder.path.iterdir()}
            result = folder.reload()
            now = {preset.name: preset for preset in folder.presets.list()}
            assert good & files <= now.keys() <= files
            assert set(result.removed) == good - now.keys()
            assert {one.file.removesuffix(".toml") for one in result.refused} >= files - now.keys()
            aliases = [preset.alias for preset in now.values() if preset.alias]
            assert len(aliases) == len(set(aliases))
            assert all(folder.presets.aliased(one.alias) is one for one in _named(now))
            good = set(now)


def _named(presets: dict[str, Preset]) -> list[Preset]:
    return [preset for preset in presets.values() if preset.alias]


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(-1, 4) | st.integers(-1, 3),
    "top_p": st.floats(-0.5, 1.5),
    "top_k": st.integers(-2, 2**31),
    "min_p": st.floats(-0.5, 1.5),
    "seed": st.integers(-(2**64), 2**64),
    "frequency_penalty": st.floats(-3, 3),
    "presence_penalty": st.floats(-3, 3),
    "repetition_penalty": st.floats(-1, 12),
    "max_tokens": st.integers(-1, 2**31),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=6),
    "reasoning_effort": st.sampled_from(["none", "low", "max", "huge", ""]),
    "chat_template_kwargs": st.dictionaries(
        st.sampled_from(["style", "tools", "a b"]), st.integers(), max_size=2
    ),
}
ODD = st.sampled_from([True, "1", [], {}, [1]])


@given(data=st.data(), name=st.sampled_from(sorted(VALUES)))
def test_parameters_are_held_to_the_rules_of_requests(data: st.DataObject, name: str) -> None:
    value = data.draw(VALUES[name] | ODD)
    outcomes: list[tuple[Any, ...]] = []
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}], name: value}
    try:
        check_tree(chat)
        asked = ChatParser()(chat).request
        kwargs = asked.prompt.template_kwargs
        outcomes.append((asked.sampling, asked.max_tokens, asked.stop, kwargs))
    except LmxError as error:
        outcomes.append((error.kind, error.param))
    try:
        preset = parse_preset("p", {"model": "m", "parameters": {name: value}})
        outcomes.append((preset.sampling, preset.max_tokens, preset.stop, preset.template_kwargs))
    except LmxError as error:
        outcomes.append((error.kind, (error.param or "").removeprefix("parameters.")))
    assert outcomes[0] == outcomes[1]
