"""What takes long is done on a thread: schemas never seen, and unknown fields of large bodies."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from opta_lmx.api.body import BodyParser
from opta_lmx.api.fields import BodyReader
from opta_lmx.api.openai.parse import ChatCall, ChatParser
from opta_lmx.core.errors import LmxError
from opta_lmx.core.pauses import TakesLong, about_to_pause, no_long_pauses

_HERE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def with_schema(name: str, **schema: Any) -> bytes:
    """A request whose schema no other test sends."""
    wanted = {"type": "object", "properties": {name: {"type": "string"}}, **schema}
    output = {"type": "json_schema", "json_schema": {"name": "x", "schema": wanted}}
    return json.dumps({**_HERE, "response_format": output}).encode()


def parsed(body: bytes, *, lenient: bool = False) -> tuple[list[bool], Any]:
    """Whether each attempt ran on the event loop's thread, and what came of the last."""
    attempts: list[bool] = []
    reader: BodyReader[ChatCall] = BodyReader(ChatParser(), lenient=lenient)

    async def main() -> Any:
        here = threading.get_ident()

        def read(data: bytes) -> Any:
            attempts.append(threading.get_ident() == here)
            return reader(data)

        return await BodyParser().parse(read, body)

    return attempts, asyncio.run(main())


def test_a_new_schema_is_judged_on_a_thread_and_a_known_one_at_once() -> None:
    body = with_schema("a schema of its own")
    assert parsed(body)[0] == [True, False]
    attempts, read = parsed(body)
    assert attempts == [True]
    assert read.call.request.output is not None


def test_a_refusal_comes_from_the_thread_as_it_is() -> None:
    with pytest.raises(LmxError) as caught:
        parsed(with_schema("refused", required=[1]))
    assert (caught.value.param or "").startswith("response_format.json_schema.schema")


def test_as_many_tools_as_a_request_may_have_are_remembered() -> None:
    tools = [
        {
            "type": "function",
            "function": {
                "name": f"tool_{n}",
                "strict": True,
                "parameters": {"type": "object", "properties": {f"remembered_{n}": {}}},
            },
        }
        for n in range(128)
    ]
    output = json.loads(with_schema("beside the tools"))["response_format"]
    body = json.dumps({**_HERE, "tools": tools, "response_format": output}).encode()
    assert parsed(body)[0] == [True, False]
    assert parsed(body)[0] == [True]


@pytest.mark.parametrize(("words", "attempts"), [(1, [True]), (5_000, [True, False])])
def test_unknown_fields_of_a_large_body_are_taken_out_on_a_thread(
    words: int, attempts: list[bool]
) -> None:
    long = {"model": "m", "messages": [{"role": "user", "content": "hi " * words}], "extra": 1}
    seen, read = parsed(json.dumps(long).encode(), lenient=True)
    assert (seen, read.ignored) == (attempts, ("extra",))


def test_unknown_names_with_dots_and_long_ones_are_found() -> None:
    names = ("a.b", "a", "n" * 80)
    body = json.dumps({**_HERE, **dict.fromkeys(names, 1)}).encode()
    assert set(parsed(body, lenient=True)[1].ignored) == {"a.b", "a", "n" * 64}


def test_a_block_forbids_pauses_for_itself_alone() -> None:
    async def main() -> None:
        with no_long_pauses(), pytest.raises(TakesLong):
            about_to_pause()
        about_to_pause()
        done: Callable[[], None] = about_to_pause
        await asyncio.to_thread(done)

    asyncio.run(main())
