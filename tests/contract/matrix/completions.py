"""OpenAI text completions, field by field."""

from tests.contract.matrix import common
from tests.contract.matrix.model import Surface, by_model, nested, refused, supported

COMPLETIONS = Surface(
    name="OpenAI text completions",
    path="/v1/completions",
    least={"prompt": "once", "max_tokens": 2},
    rows=(
        supported("prompt", ["once", "twice"], "Text, token ids, or a list of either."),
        by_model("suffix", "b", "Fill-in-the-middle, where the vocabulary has marks for it."),
        nested(
            "echo",
            "supported",
            "The prompt before the answer; not with `logprobs`.",
            echo=True,
        ),
        supported("max_tokens", 2, "16 by default; 0 only with `echo`."),
        supported("n", 2, "Answers to each prompt, side by side."),
        supported("best_of", 2, "The `n` with the highest mean log-probability; not streamed."),
        *common.SAMPLING,
        supported("logprobs", 3, "Of each token, and up to five likeliest."),
        common.STOP,
        common.USER,
        common.STAY,
        *common.STREAM,
        refused("max_completion_tokens", 2, "A field of chat: here it is `max_tokens`."),
    ),
    sdk="openai.types.completion_create_params:CompletionCreateParamsBase",
    watch="`tests/contract/test_sdk_fields.py` (openai SDK)",
)
