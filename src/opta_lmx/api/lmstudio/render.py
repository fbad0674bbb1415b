"""Our models in LM Studio's words."""

from collections.abc import Sequence
from typing import Literal

from opta_lmx.api.lmstudio.wire import (
    Capabilities,
    Instance,
    InstanceConfig,
    Job,
    Jobs,
    Model,
    ModelList,
    OldModel,
    Quantization,
    Reasoning,
)
from opta_lmx.api.values import timestamp
from opta_lmx.engine.downloads import Download
from opta_lmx.models.matching import bits_of
from opta_lmx.serving.catalogue import ServedModel

_READY = "ready"
_UNITS = ((1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K"))


def model_list(served: Sequence[ServedModel]) -> ModelList:
    """Every stored model once, with all its loaded instances, whatever engine they run on.

    Rerankers are left out: LM Studio has no word for them, and no route that runs them.
    """
    stored: dict[str, list[ServedModel]] = {}
    for one in served:
        if one.kind == "rerank":
            continue
        stored.setdefault(one.name, []).append(one)
    return ModelList([_model(group) for group in stored.values()])


def _model(group: Sequence[ServedModel]) -> Model:
    first = group[0]
    model = Model(
        type=kind_of(first),
        publisher=_publisher(first),
        key=first.name,
        display_name=first.name.rpartition("/")[2],
        quantization=Quantization(first.quantisation or None, bits_of(first.quantisation)),
        size_bytes=first.size_bytes,
        params_string=params_string(first.parameters),
        loaded_instances=[
            Instance(one.id, InstanceConfig(one.context_length))
            for one in group
            if one.state == _READY
        ],
        max_context_length=max(one.max_context_length for one in group),
        format=first.format,
    )
    if model.type == "llm":
        model.architecture = first.architecture or None
        model.capabilities = _capabilities(first)
        model.description = None
    return model


def old_model(served: ServedModel) -> OldModel:
    """The same in the words of the older interface, one for each instance."""
    llm = kind_of(served) == "llm"
    loaded = served.state == _READY
    model = OldModel(
        id=served.id,
        object="model",
        type="llm" if llm else "embeddings",
        publisher=_publisher(served),
        arch=served.architecture,
        compatibility_type=served.format,
        quantization=served.quantisation,
        state="loaded" if loaded else "not-loaded",
        max_context_length=served.max_context_length,
    )
    if loaded:
        model.loaded_context_length = served.context_length
    if llm and served.tools:
        model.capabilities = ["tool_use"]
    return model


def kind_of(served: ServedModel) -> Literal["llm", "embedding"]:
    """LM Studio knows two kinds; what does not write text counts as the other."""
    return "llm" if served.kind == "chat" else "embedding"


def job(download: Download) -> Job:
    """A download; one that was cancelled has failed, one the server's end cut short is paused."""
    states: dict[str, Literal["downloading", "paused", "completed"]] = {
        "running": "downloading",
        "interrupted": "paused",
        "completed": "completed",
    }
    report = download.report()
    rendered = Job(
        status=states.get(download.status, "failed"),
        job_id=download.id,
        downloaded_bytes=report["downloaded_bytes"],
        total_size_bytes=report["total_bytes"],
        started_at=timestamp(download.started_ms),
    )
    if rendered.status == "completed" and download.ended_ms is not None:
        rendered.completed_at = timestamp(download.ended_ms)
    return rendered


def jobs(downloads: Sequence[Download]) -> Jobs:
    """All downloads, sorted by what has become of them."""
    rendered = [job(one) for one in downloads]
    by_status: dict[str, list[Job]] = {
        "downloading": [],
        "paused": [],
        "completed": [],
        "failed": [],
    }
    for one in rendered:
        by_status[one.status].append(one)
    return Jobs(**by_status)


def params_string(parameters: int) -> str | None:
    """A count of weights as people say it (`135M`, `1.7B`); None for an unknown one."""
    for size, unit in _UNITS:
        if parameters >= size * 0.9995:
            number = parameters / size
            digits = 1 if number < 9.95 else 0
            return f"{number:.{digits}f}".removesuffix(".0") + unit
    return str(parameters) if parameters else None


def _capabilities(served: ServedModel) -> Capabilities:
    choices = served.reasoning
    reasoning = Reasoning(list(choices), choices[0]) if choices else None
    return Capabilities(vision=False, trained_for_tool_use=served.tools, reasoning=reasoning)


def _publisher(served: ServedModel) -> str:
    """The org in the model's name or in its place on the hub."""
    org = served.name.rpartition("/")[0]
    if not org and served.source.startswith("hub:"):
        org = served.source.removeprefix("hub:").partition("/")[0]
    return org or "local"
