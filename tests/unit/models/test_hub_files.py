"""Which files of a repository are taken, and how references are read."""

import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.models.hub_files import HubFile, HubRef, choose, parse_ref, quantisation_in

FOLDER = ["config.json", "tokenizer.json", "model.safetensors"]


def listed(*paths: str) -> list[HubFile]:
    """Files of those names; sizes grow with the place in the list."""
    return [HubFile(path, 100 + place) for place, path in enumerate(paths)]


def chosen(*paths: str, ref: str = "org/name") -> list[str]:
    return [file.path for file in choose(parse_ref(ref), listed(*paths)).files]


def refused(*paths: str, ref: str = "org/name") -> LmxError:
    with pytest.raises(LmxError) as caught:
        chosen(*paths, ref=ref)
    return caught.value


@pytest.mark.parametrize(
    ("text", "ref", "name"),
    [
        ("org/name", HubRef("org/name"), "org/name"),
        ("org/name@main", HubRef("org/name", None, "main"), "org/name"),
        ("org/name@refs/pr/1", HubRef("org/name", None, "refs/pr/1"), "org/name"),
        ("org/n/x-Q4.gguf", HubRef("org/n", "x-Q4.gguf"), "org/x-Q4"),
        ("org/n/sub/x.gguf@v1", HubRef("org/n", "sub/x.gguf", "v1"), "org/x"),
        ("org/n/x-00001-of-00002.gguf", HubRef("org/n", "x-00001-of-00002.gguf"), "org/x"),
    ],
)
def test_references(text: str, ref: HubRef, name: str) -> None:
    assert parse_ref(text) == ref
    assert parse_ref(text).model_name == name


# fmt: off
NO_REFERENCES = [
    "", "name", "org/", "/name", "org/name/", "org/name/file.bin", "org/name@", "org/name@a b",
    "../name", "org/..", "org/name/../../x.gguf", "org//name", "org/name@../x", "a b/c",
    "http://host/org/name", "org/name\n", "org/name/x.gguf@", ".org/name",
]
# fmt: on


@pytest.mark.parametrize("text", NO_REFERENCES)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(LmxError) as caught:
        parse_ref(text)
    assert caught.value.code == "invalid_model_name"


@pytest.mark.parametrize(
    ("path", "quantisation"),
    [
        ("Model-1B-Q4_K_M.gguf", "Q4_K_M"),
        ("gemma-3-270m-q4_k_m.gguf", "Q4_K_M"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Qwen2.5-7B-IQ4_XS.gguf", "IQ4_XS"),
        ("Q8_0/model.gguf", ""),
        ("model-f16.gguf", "F16"),
        ("model.gguf", ""),
    ],
)
def test_quantisations_in_names(path: str, quantisation: str) -> None:
    assert quantisation_in(path) == quantisation


def test_a_folder_is_taken_without_the_rest() -> None:
    rest = [
        "README.md",
        "onnx/model.safetensors",
        "original/x.pth",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "modeling.py",
        ".gitattributes",
        "model-Q4_K_M.gguf",
    ]
    assert chosen(*FOLDER, *rest, "LICENSE", "merges.txt") == [*FOLDER, "LICENSE", "merges.txt"]


def test_the_preferred_quantisation() -> None:
    assert chosen("a-Q8_0.gguf", "a-Q4_0.gguf", "a-Q4_K_M.gguf") == ["a-Q4_K_M.gguf"]
    assert chosen("a-Q8_0.gguf", "a-Q4_1.gguf", "a-IQ4_XS.gguf") == ["a-Q4_1.gguf"]
    assert chosen("a-Q8_0.gguf", "mmproj-Q4_K_M.gguf", "imatrix.gguf") == ["a-Q8_0.gguf"]


def test_no_choice_without_a_word() -> None:
    error = refused("a-Q8_0.gguf", "a-f16.gguf")
    assert error.code == "ambiguous_quantisation"
    assert "a-Q8_0.gguf" in error.message
    assert "a-f16.gguf" in error.message


def test_a_named_file() -> None:
    files = ("a-Q8_0.gguf", "sub/b-Q4_K_M.gguf", *FOLDER)
    assert chosen(*files, ref="org/name/a-Q8_0.gguf") == ["a-Q8_0.gguf"]
    assert chosen(*files, ref="org/name/sub/b-Q4_K_M.gguf") == ["sub/b-Q4_K_M.gguf"]
    assert refused(*files, ref="org/name/c.gguf").code == "no_weights"


def test_all_parts_of_a_split_file() -> None:
    parts = [f"q/a-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert chosen(parts[2], parts[0], parts[1], "a-Q4_K_M-00001-of-00002.gguf") == parts
    choice = choose(HubRef("org/name", parts[1]), listed(*parts))
    assert choice.main == "a-Q4_K_M-00001-of-00003.gguf"
    assert refused(parts[0], parts[2], "README.md").code == "no_weights"


def test_repositories_without_usable_weights() -> None:
    assert refused("config.json", "pytorch_model.bin").code == "pickle_refused"
    assert refused("README.md").code == "no_weights"
    assert refused().code == "no_weights"
    assert refused(*(f"{number}.json" for number in range(5000))).code == "no_weights"
