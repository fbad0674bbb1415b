"""The one walk through a router that tests rely on misses no way in."""

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from tests.support.live_routes import live_ways


async def answer() -> Response:
    return Response()


def test_what_no_document_names_and_what_is_mounted_is_walked() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    inner = APIRouter(prefix="/inner")
    inner.add_api_route("/hidden", answer, methods=["POST"], include_in_schema=False)
    inner.add_api_route("/one/{name}", answer, methods=["GET", "DELETE"])
    app.include_router(inner)
    app.router.routes.append(WebSocketRoute("/socket", answer))
    app.mount("/mcp", Starlette(routes=[Route("/x", answer, methods=["POST"])]))
    assert {(way.method or "WS", way.path) for way in live_ways(app.routes)} == {
        ("POST", "/inner/hidden"),
        ("GET", "/inner/one/{name}"),
        ("DELETE", "/inner/one/{name}"),
        ("WS", "/socket"),
        *((method, "/mcp/{rest:path}") for method in ("GET", "POST", "PUT", "DELETE", "WS")),
    }
