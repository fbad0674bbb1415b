"""LM Studio's own load, field by field; chat and embeddings go over OpenAI's routes there."""

from tests.contract.matrix.model import Surface, refused, supported

_OURS = "The engines here decide it by themselves."

LOAD = Surface(
    name="LM Studio load",
    path="/api/v1/models/load",
    least={},
    rows=(
        supported(
            "context_length",
            64,
            "Least window in tokens; one that is loaded and large enough stays.",
        ),
        supported("echo_load_config", True, "The true window comes back in `load_config`."),
        refused("eval_batch_size", 8, _OURS),
        refused("flash_attention", True, _OURS),
        refused("num_experts", 2, _OURS),
        refused("offload_kv_cache_to_gpu", True, _OURS),
    ),
    sdk=None,
    watch="`make openclaw` (OpenClaw's `lmstudio` provider)",
)
