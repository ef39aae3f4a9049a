"""What every request passes first: checks of its encoding and size. Adds headers to every response."""

from typing import Any

from fastapi import HTTPException

HEADERS = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    b"script-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
CLOSE = {"connection": "close"}  # after a refusal, since the rest of the body is not read


class Guard:
    """ASGI middleware. Answers a body of more than `max_bytes` with 413, whether or not its length was declared."""

    def __init__(self, app: Any, max_bytes: int):
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        _, given, charset = headers.get(b"content-type", b"").lower().partition(b"charset=")
        decodable = not given or charset.partition(b";")[0].strip(b' "') in (b"utf-8", b"utf8")
        declared = headers.get(b"content-length", b"")
        too_large = declared.isdigit() and int(declared) > self._max_bytes
        received = 0

        async def checked() -> dict:  # what it raises is answered by the application
            nonlocal received
            if not decodable:
                raise HTTPException(400, "only UTF-8 is understood", CLOSE)
            message = {} if too_large else await receive()
            received += len(message.get("body", b""))
            if too_large or received > self._max_bytes:
                raise HTTPException(413, f"the request is larger than {self._max_bytes / 1e6:g} MB", CLOSE)
            return message

        async def extended(message: dict) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message["headers"], *HEADERS.items()]}
            await send(message)

        await self._app(scope, checked, extended)
