"""`bench`: how fast a loaded model of the running server is."""

from typing import Annotated, Any

import typer

from opta_lmx.cli.session import ConfigOption, JsonOption, KeyOption, UrlOption

_DISTURBED = "Others were served meanwhile ({share:.0%} of the time, up to {most} at once)."
_FEW = "Too few answers to judge by; give --runs 3 or more."
_VERDICTS = {
    "garbled": "The answers are no readable text; the model's file or template may be wrong.",
    "repetitive": "The answers repeat themselves.",
    "truncated": "Most answers ended long before they were as long as asked for.",
}
_ROWS = (
    ("time to first token, ms", "ttft_ms", 1),
    ("tokens/s of one answer", "tokens_per_s", 1),
    ("tokens/s of all together", "total_tokens_per_s", 1),
    ("between tokens, ms", "inter_token_ms", 2),
    ("prompt tokens/s", "prompt_tokens_per_s", 1),
)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(bench)


def bench(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model that is loaded.")],
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="Length of each answer.")] = 200,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", "-p", help="Length of each prompt, about.")
    ] = 128,
    runs: Annotated[int, typer.Option("--runs", "-r", help="How often to measure.")] = 5,
    warmup_runs: Annotated[
        int, typer.Option("--warmup-runs", "-w", help="Runs before that do not count.")
    ] = 1,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", help="Answers side by side.")
    ] = 1,
    url: UrlOption = None,
    api_key: KeyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast a loaded model is: first token, tokens per second."""
    from opta_lmx.cli.client import LOAD_READ_S, connect
    from opta_lmx.cli.terminal import console, print_json

    body = {"model": model, "num_output_tokens": tokens, "prompt_tokens": prompt_tokens}
    body |= {"runs": runs, "warmup_runs": warmup_runs, "concurrency": concurrency}
    with (
        connect(config, url, api_key) as client,
        console(err=True).status(f"Measuring {model}…"),
    ):
        result = client.post("/admin/benchmark/run", body, read_s=LOAD_READ_S)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    from opta_lmx.cli.terminal import note, table

    asked: dict[str, Any] = result["asked"]
    typer.echo(
        f"{result['model']} on {result['engine']}: {result['answers']} answers of "
        f"{result['output_tokens']:.0f} tokens to prompts of {result['prompt_tokens']:.0f}, "
        f"{asked['concurrency']} at a time"
    )
    rows = [(title, *_cells(result[name], digits)) for title, name, digits in _ROWS]
    table({"": False, "P50": True, "P95": True, "MEAN": True}, rows)
    for text in _remarks(result):
        note(text)


def _cells(spread: dict[str, float | None], digits: int) -> tuple[str, ...]:
    found = (spread["p50"], spread["p95"], spread["mean"])
    return tuple("-" if value is None else f"{value:.{digits}f}" for value in found)


def _remarks(result: dict[str, Any]) -> list[str]:
    """What has to be known to read the figures."""
    told = [_VERDICTS[result["coherence"]]] if result["coherence"] in _VERDICTS else []
    if result["disturbed"]:
        told.append(_DISTURBED.format(**result["others"]))
    if result["status"] != "ok":
        told.append(_FEW)
    return told
