"""Routes for operators, by the names that another server of this kind had for them."""

from typing import NamedTuple


class Route(NamedTuple):
    """One of its routes: ours, by method and path, or none; and what differs, or why not."""

    theirs: str
    ours: str
    note: str


OPERATORS = (
    Route("GET /admin/models", "GET /admin/models", "What is loaded, with the memory it takes."),
    Route(
        "GET /admin/models/{id}/performance",
        "",
        "Settings of a model are configuration; `/admin/status` tells what it runs with.",
    ),
    Route(
        "POST /admin/models/load",
        "POST /admin/models/load",
        "`model` and `backend`. Nothing is downloaded unasked; windows, idle times and engine "
        "settings are configuration (`engine.overrides`), so that a restart has them too.",
    ),
    Route(
        "POST /admin/models/load/confirm",
        "POST /admin/models/download/confirm",
        "It is the download of a large model that is confirmed.",
    ),
    Route("POST /admin/models/unload", "POST /admin/models/unload", "A model in use too."),
    Route("GET /admin/models/available", "GET /admin/models/available", "What is on disk."),
    Route(
        "POST /admin/models/download",
        "POST /admin/models/download",
        "`model`, with `@revision`. No `allow_patterns` or `ignore_patterns`: files are chosen by "
        "format, so that what is stored can be loaded.",
    ),
    Route("GET /admin/models/downloads", "GET /admin/models/downloads", ""),
    Route(
        "GET /admin/models/download/{id}/progress",
        "GET /admin/models/downloads/{download_id}",
        "And as events: `/admin/models/downloads/{download_id}/events`. `DELETE` cancels.",
    ),
    Route(
        "DELETE /admin/models/{id}",
        "DELETE /admin/models/{model}",
        "409 while it is loaded, downloaded, probed or quantised.",
    ),
    Route("POST /admin/models/probe", "POST /admin/models/probe", "With memory and times."),
    Route(
        "GET /admin/models/compatibility",
        "",
        "A probe answers for itself; what failed in service is in `quarantine` of "
        "`/admin/status` until it is reset.",
    ),
    Route(
        "POST and GET /admin/models/autotune",
        "",
        "It took a serving model away to try settings on it. `/admin/benchmark/run` measures "
        "what is loaded and takes nothing from anybody. So no tuned settings stand between a "
        "preset's and a call's own: presets hold none of the engine's, which are the model's "
        "(`engine.overrides`), and before these goes only the `context_length` of a load.",
    ),
    Route(
        "POST /admin/benchmark",
        "POST /admin/benchmark/run",
        "One benchmark, with percentiles and flags.",
    ),
    Route("POST /admin/benchmark/run", "POST /admin/benchmark/run", ""),
    Route("GET /admin/benchmark/results", "GET /admin/benchmark/results", ""),
    Route("GET /admin/presets", "GET /admin/presets", "Refused files are listed with reasons."),
    Route("GET /admin/presets/{name}", "GET /admin/presets/{name}", ""),
    Route(
        "POST /admin/presets/reload",
        "POST /admin/presets/reload",
        "A file that is wrong takes nothing away.",
    ),
    Route(
        "POST /admin/quantize",
        "POST /admin/quantize",
        "`model` for `source_model`; no `output_path`: results are stored models, by `name`.",
    ),
    Route("GET /admin/quantize", "GET /admin/quantize", ""),
    Route("GET /admin/quantize/{job}", "GET /admin/quantize/{job}", "404 for an unknown one."),
    Route(
        "POST /admin/quantize/{job}/cancel",
        "POST /admin/quantize/{job}/cancel",
        "The child process ends and its folder goes.",
    ),
)
