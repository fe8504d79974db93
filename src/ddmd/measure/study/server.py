"""The study's web server: one page for each annotator's link, nothing that names a model."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ...errors import InputError
from .plan import Item, Plan
from .votes import Vote, Votes

WEB = Path(__file__).parent / "web"
LARGEST_BODY = 16_384  # bytes of an answer
LONGEST_REASON = 2_000  # characters
IMAGE = re.compile(r"[0-9a-f]{32}\.png")
PAGES = {
    "": ("page.html", "text/html"),
    "app.js": ("app.js", "text/javascript"),
    "zoom.js": ("zoom.js", "text/javascript"),
    "style.css": ("style.css", "text/css"),
}
UNKNOWN = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Unknown link</title>
<h1>This link is not known</h1><p>Was it copied whole? If so, ask whoever sent it for a new one.</p>
"""
HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Study:
    """A plan and its votes, as the page asks for them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.plan = folder, Plan.load(folder)
        if not self.plan.salt:
            raise InputError(str(folder), "a study whose orders follow from its seed", "make it anew; its votes can still be reported")
        self.votes = Votes(folder)
        self.votes.check(self.plan)
        self.items = {item.id: item for item in self.plan.items}
        self.images = {
            token: {name for item in hand for row in self.items[item].rows for name in row.images}
            for token, hand in self.plan.annotators.items()
        }

    def state(self, token: str) -> dict[str, Any]:
        """What an annotator has to do and has done."""
        hand, done = self.plan.annotators[token], self.votes.of(token)
        place = next((i for i, item in enumerate(hand) if item not in done), len(hand))
        return {"kind": self.plan.kind, "reason": self.plan.ask_reason, "total": len(hand), "done": len(done), "place": place}

    def shown(self, token: str, place: int) -> dict[str, Any]:
        """The item at a place of an annotator's hand, its images in this annotator's order, with the answer given before."""
        item = self.items[self.plan.annotators[token][place]]
        order = self.plan.shuffled(token, item)
        rows = [{"prompt": row.prompt, "images": [f"image/{row.images[i]}" for i in order]} for row in item.rows]
        vote = self.votes.of(token).get(item.id)
        answer = {"ranking": [order.index(i) for i in vote.ranking], "reason": vote.reason} if vote else None
        return {"item": item.id, "place": place, "rows": rows, "answer": answer}

    def answer(self, token: str, body: Any) -> None:
        """Keep an answer. Raises ValueError for anything but a complete ranking of an item of this annotator."""
        if not isinstance(body, dict) or body.get("item") not in self.plan.annotators[token]:
            raise ValueError("unknown item")
        item: Item = self.items[body["item"]]
        ranking, reason, seconds = body.get("ranking"), body.get("reason", ""), body.get("seconds", 0)
        order = self.plan.shuffled(token, item)
        if not isinstance(ranking, list) or any(type(i) is not int for i in ranking) or sorted(ranking) != list(range(len(order))):
            raise ValueError("incomplete ranking")
        if not isinstance(reason, str) or len(reason) > LONGEST_REASON:
            raise ValueError("reason too long")
        if self.plan.ask_reason and not reason.strip():
            raise ValueError("a reason is asked for")
        if type(seconds) not in (int, float) or not 0 <= seconds < 1e6:
            raise ValueError("impossible time")
        self.votes.put(Vote(token, item.id, [order[i] for i in ranking], reason.strip(), float(seconds)))

    def may_see(self, token: str, name: str) -> bool:
        """Whether an image is one of this annotator's."""
        return IMAGE.fullmatch(name) is not None and name in self.images[token]


def make_app(folder: Path) -> Starlette:
    """The web application of a study's folder."""
    study = Study(folder)

    def token_of(request: Request) -> str:
        token = request.path_params["token"]
        if token not in study.plan.annotators:
            raise HTTPException(404)
        return token

    def page(request: Request) -> Response:
        token_of(request)
        name, kind = PAGES.get(request.path_params.get("file", ""), (None, None))
        if name is None:
            raise HTTPException(404)
        return Response((WEB / name).read_bytes(), media_type=kind)

    def state(request: Request) -> Response:
        return JSONResponse(study.state(token_of(request)))

    def item(request: Request) -> Response:
        token, place = token_of(request), request.path_params["place"]
        if not 0 <= place < len(study.plan.annotators[token]):
            raise HTTPException(404)
        return JSONResponse(study.shown(token, place))

    def image(request: Request) -> Response:
        token, name = token_of(request), request.path_params["name"]
        if not study.may_see(token, name):
            raise HTTPException(404)
        # No ETag and no time of change: a copied study would tell when each file was written.
        headers = {"cache-control": "private, max-age=86400, immutable"}
        return Response((folder / "images" / name).read_bytes(), headers=headers, media_type="image/png")

    async def vote(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        token = token_of(request)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY:
                raise HTTPException(413)
        try:
            await run_in_threadpool(study.answer, token, json.loads(body))
        except (ValueError, RecursionError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse(await run_in_threadpool(study.state, token))

    def unknown(request: Request, error: Exception) -> Response:
        return HTMLResponse(UNKNOWN, 404)

    def unusable(request: Request, error: Exception) -> Response:
        logging.getLogger(__name__).error("%s", error)
        return JSONResponse({"error": "The server cannot keep answers at the moment."}, 503)

    routes = [
        Route("/a/{token}/", page),
        Route("/a/{token}/state", state),
        Route("/a/{token}/item/{place:int}", item),
        Route("/a/{token}/image/{name}", image),
        Route("/a/{token}/vote", vote, methods=["POST"]),
        Route("/a/{token}/{file}", page),
    ]
    handlers: dict[Any, Any] = {404: unknown, InputError: unusable, OSError: unusable}
    return Starlette(routes=routes, middleware=[Middleware(SafeHeaders)], exception_handlers=handlers)


class SafeHeaders:
    """Adds HEADERS to every answer that does not set its own."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_safe(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await self.app(scope, receive, send_safe)


def serve(folder: Path, host: str, port: int) -> None:
    """Serve until interrupted."""
    import uvicorn

    uvicorn.run(make_app(folder), host=host, port=port, log_level="warning", server_header=False, date_header=False)
