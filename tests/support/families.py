"""Model families, the dialect each speaks, and the published template that proves it.

The one table behind the parsers' proof and the compatibility matrix.
"""

import msgspec

CALL_ID = "functions.get_weather:0"


class Family(msgspec.Struct, frozen=True):
    """One family.

    `template` is one of `support.templates`; None: none is to be had, so the family is
    unverified. `calls` is how many calls one turn may hold. `ends` end a turn.
    """

    name: str
    tools: str
    reasoning: str = ""
    template: str | None = None
    calls: int = 2
    call_id: str = CALL_ID
    ends: str = "<|im_end|>"


_SHORT_ID = "abcdef123"
_EOS = "</s>"
_DEEPSEEK = "<｜end▁of▁sentence｜>"  # noqa: RUF001

FAMILIES = (
    Family("Qwen 3", "hermes", "think", "Qwen-Qwen3-4B-Thinking-2507"),
    Family("Hermes 4", "hermes", "think", "NousResearch-Hermes-4-14B"),
    Family("Hermes 2 Pro", "hermes", "", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use"),
    Family("Granite 4", "hermes", "", "ibm-granite-granite-4.0", ends="<|end_of_text|>"),
    Family("EXAONE 4.5", "hermes", "think", "LGAI-EXAONE-EXAONE-4.5-33B", ends="<|endofturn|>"),
    Family("Step 3 VL", "hermes", "think", "stepfun-ai-Step3-VL-10B"),
    Family("Qwen 3 Coder", "qwen3-coder", "", "Qwen3-Coder"),
    Family("Qwen 3.5", "qwen3-coder", "think", "Qwen3.5-4B"),
    Family("Nemotron 3", "qwen3-coder", "think", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"),
    Family("Step 3.7", "qwen3-coder", "think", "stepfun-ai-Step-3.7-Flash"),
    Family("MiMo 2.5", "qwen3-coder", "think", "XiaomiMiMo-MiMo-V2.5"),
    Family("Seed OSS", "seed", "seed", "ByteDance-Seed-OSS", ends="<seed:eos>"),
    Family("Llama 3.1", "llama3", "", "meta-llama-Llama-3.1-8B-Instruct", 1, ends="<|eot_id|>"),
    Family("Llama 3.2", "json", "", "meta-llama-Llama-3.2-3B-Instruct", 1, ends="<|eot_id|>"),
    Family("xLAM 2", "json", "", "Salesforce-Llama-xLAM-2-8b-fc-r", ends="<|eot_id|>"),
    Family(
        "Llama 4", "pythonic", "", "trl-internal-testing-tiny-Llama4ForCausalLM", ends="<|eot|>"
    ),
    Family(
        "Mistral Nemo", "mistral", "", "mistralai-Mistral-Nemo-Instruct-2407", 2, _SHORT_ID, _EOS
    ),
    Family(
        "Mistral Small 3.2",
        "mistral",
        "",
        "Mistral-Small-3.2-24B-Instruct-2506",
        2,
        _SHORT_ID,
        _EOS,
    ),
    Family(
        "Ministral 3", "mistral", "mistral", "mistralai-Ministral-3-14B-Reasoning-2512", ends=_EOS
    ),
    Family("DeepSeek V3.1", "deepseek", "think", "deepseek-ai-DeepSeek-V3.1", ends=_DEEPSEEK),
    Family(
        "DeepSeek R1 Distill",
        "deepseek",
        "think",
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
        ends=_DEEPSEEK,
    ),
    Family("DeepSeek V3.2", "deepseek-v3.2", "think", "deepseek-ai-DeepSeek-V3.2", ends=_DEEPSEEK),
    Family("DeepSeek V4", "deepseek-v3.2", "think", "deepseek-ai-DeepSeek-V4", ends=_DEEPSEEK),
    Family("GLM 4.6", "glm", "think", "GLM-4.6", ends="<|user|>"),
    Family("GLM 4.7", "glm", "think", "GLM-4.7-Flash", ends="<|user|>"),
    Family("GLM 5.2", "glm", "think", "zai-org-GLM-5.2", ends="<|user|>"),
    Family("HyperCLOVA X Think", "glm", "think", "naver-hyperclovax-HyperCLOVAX-SEED-Think-32B"),
    Family("Laguna", "glm", "think", "poolside-Laguna-S-2.1", ends="</assistant>"),
    Family("LongCat 2", "longcat", "longcat", "meituan-longcat-LongCat-2.0", ends="</longcat_s>"),
    Family(
        "LongCat Flash",
        "longcat-flash",
        "longcat",
        "meituan-longcat-LongCat-Flash-Chat",
        ends="</longcat_s>",
    ),
    Family("Gemma 4", "gemma4", "gemma", "google-gemma-4-31B-it", ends="<|tool_response>"),
    Family(
        "FunctionGemma",
        "function-gemma",
        "",
        "unsloth-functiongemma-270m-it",
        ends="<start_function_response>",
    ),
    Family("gpt-oss", "harmony", "harmony", "openai-gpt-oss-120b", 1, ends="<|call|>"),
    Family("MiniMax M2", "minimax", "think", "MiniMax-M2", ends="[e~["),
    Family("MiniMax M2.7", "minimax", "think", "MiniMaxAI-MiniMax-M2.7", ends="[e~["),
    Family("Kimi K2 Thinking", "kimi", "think", "moonshotai-Kimi-K2-Thinking"),
    Family("Kimi K2.6", "kimi", "think", "moonshotai-Kimi-K2.6"),
    Family(
        "Command R7B",
        "cohere",
        "cohere",
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
        ends="<|END_OF_TURN_TOKEN|>",
    ),
    Family("Cohere 2 MoE", "cohere", "cohere", "Cohere2MoE", ends="<|END_OF_TURN_TOKEN|>"),
    Family("LFM 2.5", "lfm2", "think", "LFM2.5-8B-A1B"),
    Family("MiniCPM 3", "lfm2", "", "openbmb-MiniCPM3-4B"),
    Family("OLMo 3", "olmo", "", "allenai-Olmo-3-7B-Instruct", ends=_EOS),
    Family("Nemotron Nano 2", "nemotron", "think", "NVIDIA-Nemotron-Nano-v2", ends="<SPECIAL_12>"),
    Family("Jamba", "jamba", "", "ai21labs-Jamba-tiny-dev", ends="<|eom|>"),
    Family("Apriel 1.6", "jamba", "apriel", "Apriel-1.6-15b-Thinker-fixed", ends="\n<|end|>"),
    Family("Apertus", "apertus", "apertus", "Apertus-8B-Instruct", ends="<|assistant_end|>"),
    Family("Hunyuan", "hunyuan", "think", "tencent-Hunyuan-7B-Pretrain", ends=_EOS),
    Family(
        "Functionary 3.1", "functionary", "", "meetkai-functionary-medium-v3.1", ends="<|eom_id|>"
    ),
    Family(
        "Functionary 3.2",
        "functionary-v3.2",
        "",
        "meetkai-functionary-medium-v3.2",
        ends="<|eot_id|>",
    ),
    # No template to be had renders a call of these (Gemma 3's know no tools at all).
    Family("Gemma 3", "gemma3"),
    Family("Granite 3", "granite"),
    Family("Phi 4 mini", "phi"),
    Family("FireFunction 2", "firefunction"),
)

VERIFIED = tuple(family for family in FAMILIES if family.template is not None)
