"""What LM Studio's routes take and give."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from opta_lmx.api.fields import MAX_INT32, ModelName, WireModel, only

Unsupported = Annotated[Any, only()]
"""A setting of LM Studio's own engines, which ours decide by themselves: null only."""


class LoadRequest(WireModel):
    """Body of `POST /api/v1/models/load`. `context_length` is in tokens."""

    model: ModelName
    context_length: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    echo_load_config: bool | None = None
    eval_batch_size: Unsupported = None
    flash_attention: Unsupported = None
    num_experts: Unsupported = None
    offload_kv_cache_to_gpu: Unsupported = None


class UnloadRequest(WireModel):
    """Body of `POST /api/v1/models/unload`."""

    instance_id: ModelName


class DownloadRequest(WireModel):
    """Body of `POST /api/v1/models/download`: a reference as elsewhere, or a hub link.

    `confirmation_token` is ours: it answers the question that a large model is met with.
    """

    model: ModelName
    confirmation_token: ModelName | None = None
    quantization: Unsupported = None


class InstanceConfig(msgspec.Struct):
    """How an instance was loaded."""

    context_length: int


class Instance(msgspec.Struct):
    """A loaded model; its id may be asked for as a model on every surface."""

    id: str
    config: InstanceConfig


class Quantization(msgspec.Struct):
    """Name and nominal bits; None where nobody knows."""

    name: str | None
    bits_per_weight: int | None


class Reasoning(msgspec.Struct):
    """The choices a caller has of how much the model thinks, and the usual one."""

    allowed_options: list[str]
    default: str


class Capabilities(msgspec.Struct, omit_defaults=True):
    """What a language model can do beyond text. `reasoning` is absent where it does not think."""

    vision: bool
    trained_for_tool_use: bool
    reasoning: Reasoning | None = None


class Model(msgspec.Struct):
    """One stored model; the last four fields are for language models only."""

    type: Literal["llm", "embedding"]
    publisher: str
    key: str
    display_name: str
    quantization: Quantization
    size_bytes: int
    params_string: str | None
    loaded_instances: list[Instance]
    max_context_length: int
    format: Literal["gguf", "mlx"]
    architecture: str | msgspec.UnsetType | None = msgspec.UNSET
    capabilities: Capabilities | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType | None = msgspec.UNSET


class ModelList(msgspec.Struct):
    """Answer of `GET /api/v1/models`."""

    models: list[Model]


class Loaded(msgspec.Struct, omit_defaults=True):
    """Answer of a load; `load_config` is there where it was asked for."""

    type: Literal["llm", "embedding"]
    instance_id: str
    load_time_seconds: float
    status: Literal["loaded"]
    load_config: InstanceConfig | None = None


class Unloaded(msgspec.Struct):
    """Answer of an unload."""

    instance_id: str


class Job(msgspec.Struct, omit_defaults=True):
    """A download. Times are UTC in ISO 8601; absent is what nobody knows yet.

    `already_downloaded` is no download at all, and has no id.
    """

    status: Literal["downloading", "paused", "completed", "failed", "already_downloaded"]
    job_id: str | None = None
    downloaded_bytes: int | None = None
    total_size_bytes: int | None = None
    started_at: str | None = None
    completed_at: str | None = None


class Jobs(msgspec.Struct):
    """The downloads of this run of the server; `paused` are those that the last one left."""

    downloading: list[Job]
    completed: list[Job]
    failed: list[Job]
    paused: list[Job]


class OldModel(msgspec.Struct):
    """One model of `GET /api/v0/models`."""

    id: str
    object: Literal["model"]
    type: Literal["llm", "embeddings"]
    publisher: str
    arch: str
    compatibility_type: Literal["gguf", "mlx"]
    quantization: str
    state: Literal["loaded", "not-loaded"]
    max_context_length: int
    loaded_context_length: int | msgspec.UnsetType = msgspec.UNSET
    capabilities: list[str] | msgspec.UnsetType = msgspec.UNSET


class OldList(msgspec.Struct):
    """Answer of `GET /api/v0/models`."""

    object: Literal["list"]
    data: list[OldModel]
