"""What a model folder says: context, template and sampling defaults, wherever they are written."""

import json
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.backends.mlx.folder import read_folder
from opta_lmx.backends.protocol import LoadError
from opta_lmx.core.types import SamplingParams


def folder(path: Path, **files: Any) -> Path:
    """Write JSON files named by their keys; config.json is always there."""
    for name, value in {"config": {}, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


def test_plain_facts(tmp_path: Path) -> None:
    found = read_folder(folder(tmp_path, config={"max_position_embeddings": 9, "vocab_size": 5}))
    assert (found.context, found.vocabulary, found.template) == (9, 5, None)
    assert found.sampling == SamplingParams()


def test_facts_of_the_text_part_and_without_any(tmp_path: Path) -> None:
    nested = {"text_config": {"max_position_embeddings": 77, "vocab_size": 8}}
    found = read_folder(folder(tmp_path, config=nested))
    assert (found.context, found.vocabulary) == (77, 8)
    odd = {"max_position_embeddings": "many", "vocab_size": -1}
    found = read_folder(folder(tmp_path, config=odd))
    assert (found.context, found.vocabulary) == (4096, None)


def test_a_template_file_wins_over_the_configuration(tmp_path: Path) -> None:
    folder(tmp_path, tokenizer_config={"chat_template": "config"})
    assert read_folder(tmp_path).template == "config"
    folder(tmp_path, chat_template={"chat_template": "json"})
    assert read_folder(tmp_path).template == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert read_folder(tmp_path).template == "jinja"


@pytest.mark.parametrize(
    ("value", "template"),
    [
        ([{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}], "b"),
        ([{"name": "rag", "template": "a"}], None),
        (["text", None], None),
        (5, None),
    ],
)
def test_named_templates(tmp_path: Path, value: object, template: str | None) -> None:
    assert read_folder(folder(tmp_path, tokenizer_config={"chat_template": value})).template == (
        template
    )


@pytest.mark.parametrize(
    ("generation", "sampling"),
    [
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05},
            SamplingParams(temperature=0.6, top_p=0.9, top_k=20, min_p=0.05),
        ),
        ({"do_sample": False, "temperature": 0.6}, SamplingParams(temperature=0.0)),
        ({"temperature": -1, "top_p": 7, "top_k": 2.5, "min_p": True}, SamplingParams()),
    ],
)
def test_sampling_defaults(
    tmp_path: Path, generation: dict[str, Any], sampling: SamplingParams
) -> None:
    assert read_folder(folder(tmp_path, generation_config=generation)).sampling == sampling


@pytest.mark.parametrize("key", ["auto_map", "model_file"])
def test_models_that_bring_code_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(LoadError, match=key):
        read_folder(folder(tmp_path, config={key: "x"}))
