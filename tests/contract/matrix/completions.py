"""OpenAI text completions, field by field."""

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
        supported("temperature", 0.5, "0 to 2; 0 is greedy."),
        supported("top_p", 0.9, "Above 0 to 1."),
        supported("top_k", 40, "Extension; 0 means all."),
        supported("min_p", 0.1, "Extension; 0 to 1."),
        supported("seed", 7, "Same seed, same text; how far is said by `system_fingerprint`."),
        supported("frequency_penalty", 0.5, "-2 to 2."),
        supported("presence_penalty", 0.5, "-2 to 2."),
        supported("repetition_penalty", 1.1, "Extension; above 0, 1 means none."),
        supported("logit_bias", {"5": -100}, "Token ids to -100..100."),
        supported("logprobs", 3, "Of each token, and up to five likeliest."),
        supported("stop", ["x", "y"], "Up to four strings, also across token borders."),
        supported("user", "u", "The end user, for accounting."),
        supported("stream", False, "Server-sent events."),
        nested(
            "stream_options", "supported", "Only with `stream`.", stream=True, stream_options={}
        ),
        nested(
            "stream_options.include_usage",
            "supported",
            "A last chunk with exact counts.",
            stream=True,
            stream_options={"include_usage": True},
        ),
        nested(
            "stream_options.include_obfuscation",
            "refused",
            "Only false: no padding is sent.",
            stream=True,
            stream_options={"include_obfuscation": True},
        ),
        refused("max_completion_tokens", 2, "A field of chat: here it is `max_tokens`."),
    ),
    sdk="openai.types.completion_create_params:CompletionCreateParamsBase",
    watch="`tests/contract/test_sdk_fields.py` (openai SDK)",
)
