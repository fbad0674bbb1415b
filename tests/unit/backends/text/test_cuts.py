"""Turn starts: exact offsets in the one encode of a prompt, for the templates of many families."""

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from opta_lmx.backends.text.template import ChatTemplate
from opta_lmx.backends.text.texts import TemplateTexts
from opta_lmx.backends.text.tokenizer import HfTokenizer
from opta_lmx.core.types import Message, Prompt
from tests.support.templates import template
from tests.support.tiny import TEMPLATE, tiny_llama

TURNS = (
    Message("system", "You are a pirate who helps."),
    Message("user", "Tell me of the sea."),
    Message("assistant", "It is wet."),
    Message("user", "And then what?"),
    Message("assistant", "Nothing at all."),
    Message("user", "Why not?"),
)
FAMILIES = {
    "Qwen-Qwen2.5-7B-Instruct": "<|im_start|>",
    "Qwen-Qwen3-4B-Thinking-2507": "<|im_start|>",
    "NousResearch-Hermes-3-Llama-3.1-8B": "<|im_start|>",
    "NousResearch-Meta-Llama-3.1-8B-Instruct": "<|start_header_id|>",
    "unsloth-gemma-3-270m-it": "<start_of_turn>",
    "google-gemma-4-E4B-it": "<|turn>",
    "openai-gpt-oss-120b": "<|start|>",
    "Mistral-Small-3.2-24B-Instruct-2506": "[INST]",
    "mistralai-Mistral-Nemo-Instruct-2407": "[INST]",
    "GLM-4.6": "<|user|>",
    "Kimi-K2-Instruct": "<|im_user|>",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "<|START_OF_TURN_TOKEN|>",
    "MiniMax-M2": "]~b]",
    "ByteDance-Seed-OSS": "<seed:bos>",
    "yujiepan-deepseek-v3-tiny-random": "<\uff5cUser\uff5c>",
}
_SPECIAL = re.compile(r"<[^<>\s'\"{}()]{1,60}>|\[/?[A-Z_]{2,}\]|\]~b\]|\[e~\[")


def byte_tokenizer(source: str) -> HfTokenizer:
    """One token a byte, and one for whatever in a template looks special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    marks = sorted({*_SPECIAL.findall(source), "<s>", "</s>"})
    made.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    return HfTokenizer(made, {"bos_token": "<s>", "eos_token": "</s>"})


def texts_of(source: str) -> tuple[TemplateTexts, HfTokenizer]:
    made = ChatTemplate.from_source(source, bos_token="<s>", eos_token="</s>")
    tokenizer = byte_tokenizer(source)
    return TemplateTexts(made, tokenizer), tokenizer


def parts(tokenizer: HfTokenizer, ids: Sequence[int], cuts: Sequence[int]) -> list[str]:
    """The text between the cuts."""
    bounds = [0, *cuts, len(ids)]
    return [tokenizer.decode(ids[start:end]) for start, end in pairwise(bounds)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_cut_is_the_start_of_a_turn(name: str) -> None:
    texts, tokenizer = texts_of(template(name))
    prepared = texts.prepare(Prompt(messages=TURNS), echo=True)
    found = parts(tokenizer, prepared.ids, prepared.cuts)
    assert "".join(found) == prepared.text
    said = [turn.content for turn in TURNS[1:]]
    users = [part for part in found[1:] if any(text in part for text in said[::2])]
    assert all(part.startswith(FAMILIES[name]) for part in users)
    # What the user and the assistant say lies in parts of its own.
    held = [[text for text in said if text in part] for part in found]
    assert [texts for texts in held if texts] == [[text] for text in said]


def test_turns_share_their_cuts_with_the_next_prompt() -> None:
    texts, _ = texts_of(template("Qwen-Qwen3-4B-Instruct-2507"))
    short = texts.prepare(Prompt(messages=TURNS[:4]))
    long = texts.prepare(Prompt(messages=TURNS))
    assert len(short.cuts) == 4  # three turns after the first, and the answer to come
    assert long.cuts[:4] == short.cuts
    assert long.ids[: short.cuts[-1]] == short.ids[: short.cuts[-1]]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[-1].content }}",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    ],
)
def test_turns_without_tokens_of_their_own_have_no_cuts(source: str) -> None:
    texts, _ = texts_of(source)
    assert texts.prepare(Prompt(messages=TURNS)).cuts == ()


def test_raw_prompts_have_no_cuts() -> None:
    texts, _ = texts_of(TEMPLATE)
    assert texts.prepare(Prompt(text="<|im_start|>user\na<|im_start|>user\nb")).cuts == ()


def test_the_tiny_models_tokenizer_knows_its_turns() -> None:
    tokenizer = HfTokenizer.from_folder(tiny_llama())
    made = ChatTemplate.from_source(TEMPLATE, bos_token="", eos_token="<|im_end|>")
    prepared = TemplateTexts(made, tokenizer).prepare(Prompt(messages=TURNS), echo=True)
    found = parts(tokenizer, prepared.ids, prepared.cuts)
    assert "".join(found) == prepared.text
    assert [part.startswith("<|im_start|>") for part in found] == [True] * 7
