"""What every request passes before the program sees it: its encoding and size; and headers of every answer."""

import json
from types import SimpleNamespace
from typing import Any

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Guard:
    """ASGI. A body of more than `max_bytes`, whether or not it says so beforehand, is answered with 413."""

    def __init__(self, app: Any, max_bytes: int):
        self._app, self._max_bytes = app, max_bytes
        self._too_large = f"the request is larger than {max_bytes / 1e6:g} MB"

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        _, says, charset = headers.get(b"content-type", b"").lower().partition(b"charset=")
        if says and charset.partition(b";")[0].strip(b' "') not in (b"utf-8", b"utf8"):  # others write what is no text
            await self._refuse(send, 400, "only UTF-8 is understood")
            return
        told = headers.get(b"content-length", b"")
        body = SimpleNamespace(seen=0, refused=False, too_large=told.isdigit() and int(told) > self._max_bytes)

        async def counted() -> dict:
            message = await receive()
            body.seen += len(message.get("body", b""))
            if body.seen > self._max_bytes:
                body.too_large = True
                return {"type": "http.disconnect"}  # nothing more is read
            return message

        async def guarded(message: dict) -> None:
            if body.too_large:
                if not body.refused:
                    body.refused = True
                    await self._refuse(send, 413, self._too_large)
                return
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = message | {"headers": [*message["headers"], *extra]}
            await send(message)

        if body.too_large:
            await self._refuse(send, 413, self._too_large)
            return
        try:
            await self._app(scope, counted, guarded)
        finally:
            if body.too_large and not body.refused:
                await self._refuse(send, 413, self._too_large)

    async def _refuse(self, send: Any, status: int, why: str) -> None:
        text = json.dumps({"detail": why}).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})
