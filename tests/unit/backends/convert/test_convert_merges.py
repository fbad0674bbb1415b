"""Derived merges do what SentencePiece's scores do: join the best neighbours, leftmost first."""

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from opta_lmx.backends.convert.merges import derive_merges


def join_by_score(text: str, scores: dict[str, float]) -> list[str]:
    """The rule as llama.cpp states it, without its queue."""
    parts = list(text)
    while True:
        candidates = [
            (-scores[parts[i] + parts[i + 1]], i)
            for i in range(len(parts) - 1)
            if parts[i] + parts[i + 1] in scores
        ]
        if not candidates:
            return parts
        _, at = min(candidates)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@st.composite
def vocabularies(draw: st.DrawFn) -> dict[str, float]:
    """Words built by joining, as a trainer builds them, with distinct scores; then the letters."""
    words = ["a", "b", "c"]
    for _ in range(draw(st.integers(0, 8))):
        word = draw(st.sampled_from(words)) + draw(st.sampled_from(words))
        if word not in words:
            words.append(word)
    joined = words[3:]
    return {word: -float(i) for i, word in enumerate([*joined, *words[:3]])}


@given(vocabularies(), st.text("abc", max_size=14))
def test_merges_give_the_tokens_of_the_scores(scores: dict[str, float], text: str) -> None:
    vocab = {word: index for index, word in enumerate(scores)}
    tokenizer = Tokenizer(models.BPE(vocab, derive_merges(scores)))
    found = tokenizer.encode_batch([text], add_special_tokens=False)[0].tokens if text else []
    assert found == join_by_score(text, scores)


def test_equal_scores_grow_a_run_from_its_left_end() -> None:
    scores = {"xx": -1.0, "xxx": -1.0, "xxxx": -1.0, "x": -2.0}
    assert derive_merges(scores) == [("xxx", "x"), ("xx", "x"), ("xx", "xx"), ("x", "x"),
                                     ("x", "xx"), ("x", "xxx")]  # fmt: skip


def test_parts_must_be_known() -> None:
    assert derive_merges({"ab": 0.0, "a": -1.0}) == []
