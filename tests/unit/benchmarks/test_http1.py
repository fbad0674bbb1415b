from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.http1 import HttpError, ResponseParser, SseParser, parse_head

EVENTS = [b'{"a":1}', b"two\nlines", b"[DONE]"]
STREAM = b': note\n\ndata: {"a":1}\n\nevent: x\r\ndata: two\r\ndata:lines\r\n\r\ndata: [DONE]\n\n'


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in parts)
    return (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + framed
        + b"0\r\nTrailer: x\r\n\r\n"
    )


def read_all(data: list[bytes]) -> tuple[ResponseParser, bytes]:
    parser = ResponseParser()
    body = b"".join([parser.feed(piece) for piece in data])
    parser.close()
    return parser, body


cuts = st.lists(st.integers(0, 10_000), max_size=20)


@given(cuts=cuts, size=st.integers(1, 40), body=st.binary(min_size=1, max_size=200))
def test_a_chunked_body_survives_any_split(cuts: list[int], size: int, body: bytes) -> None:
    parser, read = read_all(pieces(chunked(body, size), cuts))
    assert read == body
    assert parser.done


@given(cuts=cuts, body=st.binary(max_size=200))
def test_a_counted_body_survives_any_split(cuts: list[int], body: bytes) -> None:
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body)
    parser, read = read_all(pieces(head + body, cuts))
    assert read == body
    assert parser.head is not None
    assert parser.head.status == 404


@given(cuts=cuts, body=st.binary(max_size=200))
def test_a_body_may_end_with_the_connection(cuts: list[int], body: bytes) -> None:
    parser, read = read_all(pieces(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n" + body, cuts))
    assert read == body
    assert parser.done


@given(cuts=cuts, size=st.integers(1, 60))
def test_events_survive_any_split(cuts: list[int], size: int) -> None:
    http, sse = ResponseParser(), SseParser()
    found: list[bytes] = []
    for piece in pieces(chunked(STREAM, size), cuts):
        found += sse.feed(http.feed(piece))
    assert found == EVENTS


def test_an_unfinished_event_is_not_given() -> None:
    assert SseParser().feed(b"data: half\n") == []


def test_interim_responses_are_skipped() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    assert read_all([data])[1] == b"hi"


def test_a_response_without_a_body_ends_with_its_head() -> None:
    assert read_all([b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"])[0].done


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    ],
)
def test_a_cut_response_is_an_error(data: bytes) -> None:
    parser = ResponseParser()
    parser.feed(data)
    with pytest.raises(HttpError, match="middle"):
        parser.close()


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
    ],
)
def test_nonsense_is_an_error(data: bytes) -> None:
    with pytest.raises(HttpError):
        ResponseParser().feed(data)


def test_header_names_are_lower_case() -> None:
    assert parse_head(b"HTTP/1.1 429 Too Many\r\nRetry-After:  7 ").headers == {"retry-after": "7"}
