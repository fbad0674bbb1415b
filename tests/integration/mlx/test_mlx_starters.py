"""Both starters, converted: the same tokens and next-token probabilities as llama.cpp has."""

from collections.abc import Iterator

import pytest

from opta_lmx.backends.frames import TokenOut
from opta_lmx.backends.text.tokenizer import HfTokenizer
from opta_lmx.core.types import Message, Prompt
from tests.integration.mlx.child import Child
from tests.integration.mlx.conftest import Driver
from tests.integration.mlx.converted import converted
from tests.support.gguf_child import Child as GgufChild
from tests.support.starters import starter_path

# Raw prompts whose continuation is clear: llama.cpp quantises activations, so near-ties differ.
PROMPTS = (
    "The capital of France is",
    "In 1969, the first man walked on the",
    "Monday, Tuesday, Wednesday, Thursday,",
    "The opposite of hot is",
    "The sun rises in the",
    "A, B, C, D,",
)

TEXTS = (
    "Hello, world!",
    " leading space",
    "trailing space ",
    "double  spaces   and    more",
    "tabs\tand\t\ttabs",
    "line\nbreaks\n\nand\n\n\nmore",
    "carriage\r\nreturns\r",
    " ",
    "\n",
    " " * 40,
    "\n" * 35,
    "don't we'll I'VE it's",
    "numbers 1 12 123 1234 12345678 3.14159",
    "dates 2024-05-06T07:08:09Z",
    "def f(x):\n    return x ** 2  # square\n",
    "{'key': [1, 2, {\"nested\": null}]}",
    "https://example.com/a/b?c=d&e=f#g",
    "C:\\path\\to\\file.txt /usr/local/bin",
    "snake_case camelCase PascalCase kebab-case",
    "!!! ??? ... --- === ***",
    "naïve café Žluťoučký kůň Straße",
    "Привет, мир!",
    "こんにちは世界 中文字符",
    "한국어 문장",
    "مرحبا بالعالم שלום",
    "नमस्ते दुनिया",
    "😀 👨‍👩‍👧‍👦 🇨🇿 ❤️",
    "e\u0301 a\u0300\u0301 combining",
    "\u00a0non\u2009breaking\u200bspaces\ufeff",
    "½ ² ① Ⅳ ﬁ №",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "control \x07 \x1b[0m characters",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "mixed 混合 текст with العربية and 😀 in one line\n\tindented",
)


@pytest.fixture(scope="module", params=["starter", "starter-long"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def llama_cpp(name: str) -> Iterator[GgufChild]:
    with GgufChild(starter_path(name), context=1024) as child:
        child.ready()
        yield child


@pytest.fixture(scope="module")
def mlx(child: Child, name: str) -> Iterator[Driver]:
    driver = Driver(child, converted(name), slots=2)
    yield driver
    driver.unload()


def test_tokens_are_those_of_llama_cpp(name: str, llama_cpp: GgufChild) -> None:
    tokenizer = HfTokenizer.from_folder(converted(name))
    different = {
        text: (ours, theirs)
        for text in TEXTS
        if (ours := tuple(tokenizer.encode(text, add_special=True)))
        != (theirs := llama_cpp.ids(text))
    }
    assert not different
    assert len(TEXTS) >= 30


def test_pieces_join_to_the_text(name: str) -> None:
    tokenizer = HfTokenizer.from_folder(converted(name))
    for text in TEXTS:
        if "<" not in text:
            ids = tokenizer.encode(text, add_special=False)
            assert b"".join(map(tokenizer.piece, ids)) == text.encode()


def test_the_next_token_is_that_of_llama_cpp(mlx: Driver, llama_cpp: GgufChild) -> None:
    for number, text in enumerate(PROMPTS):
        ids = llama_cpp.ids(text)
        (theirs,) = llama_cpp.generate(ids, max_tokens=1, top_logprobs=8)
        mlx.forget()
        mlx.submit(number, ids, max_tokens=1, top=8)
        mlx.run()
        (ours,) = mlx.tokens[number]
        assert (ours.id, ours.piece) == (theirs.id, theirs.piece), text
        our_top, their_top = _top(ours), _top(theirs)
        common = our_top.keys() & their_top.keys()
        assert len(common) >= 7, text
        assert max(abs(our_top[i] - their_top[i]) for i in common) <= 0.5, text


def test_the_folder_says_what_the_gguf_says(name: str, mlx: Driver, llama_cpp: GgufChild) -> None:
    context = {"starter": 8192, "starter-long": 32768}[name]
    assert mlx.ready.context == context
    assert mlx.ready.speech == llama_cpp.ready().speech
    assert mlx.ready.template_source == llama_cpp.ready().template_source
    chat = Prompt(messages=(Message("user", "What is the capital of France?"),))
    assert mlx.prepare(chat) == llama_cpp.prepare(chat).ids


def _top(token: TokenOut) -> dict[int, float]:
    assert token.top is not None
    return {entry.id: entry.logprob for entry in token.top}
