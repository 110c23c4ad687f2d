"""One HTTP request that ends: one deadline for all of it, however slowly a server sends, and a largest reply.

Clients' own limits are for one read, which a server that drips never reaches.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ropewalk.backends.chat.chat import LATE, Failed
from ropewalk.common.coroutines import finished
from ropewalk.common.errors import cut
from ropewalk.common.extras import extra

REFUSED = "no connection"  # nobody took the request
LOST = "connection lost"  # somebody took it, and went
LARGE = "too large an answer"
CONNECTING = 30.0  # seconds that nobody is waited for


@dataclass(frozen=True)
class Sent:
    """What came back.

    Attributes:
        code: of HTTP.
        wait: seconds that the server asks to be left alone for; 0 where it does not.
        body: as it came.
    """

    code: int
    wait: float
    body: bytes

    @property
    def said(self) -> Any:
        """Of JSON.

        Raises:
            Failed: if it is none.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Failed("no JSON", cut(str(error), 200), replied=True) from None

    @property
    def detail(self) -> str:
        """What a server says to a refusal, for a message."""
        try:
            said = json.loads(self.body)
            return cut(str(said["error"]["message"]), 200)
        except (ValueError, RecursionError, LookupError, TypeError):
            return cut(self.body[:1000].decode("utf-8", "replace"), 200)


class Sender:
    """Sends requests to one server.

    Args:
        url: that their paths are put behind.
        key: that tells the server who asks.
        body: bytes that a reply may have.

    Raises:
        UserError: if the client library is missing.
    """

    def __init__(self, url: str, key: str, body: int):
        self._http = extra("httpx", "servers that are asked", "openai")
        self._how = {
            "headers": {"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"},  # nothing grows in unpacking
            "follow_redirects": True, "timeout": self._http.Timeout(None, connect=CONNECTING), "verify": _trusted(),
        }  # fmt: skip
        self.url, self.body = url, body

    def send(self, path: str, asked: Mapping[str, Any] | None, deadline: float) -> Sent:
        """POST ``asked``, or GET where that is None.

        Args:
            path: behind the address.
            asked: what becomes JSON.
            deadline: seconds from the first byte out to the last one in.

        Raises:
            Failed: if nothing whole comes back in time.
        """
        try:
            return finished(asyncio.wait_for(self._sent(path, asked), deadline))
        except asyncio.TimeoutError:
            raise Failed(LATE) from None
        except (self._http.ConnectError, self._http.ConnectTimeout) as error:
            raise Failed(REFUSED, f"{self.url}: {cut(str(error), 200)}", unheard=True) from None
        except self._http.HTTPError as error:
            raise Failed(LOST, f"{self.url}: {cut(str(error) or type(error).__name__, 200)}") from None

    async def _sent(self, path: str, asked: Mapping[str, Any] | None) -> Sent:
        how = {"method": "GET"} if asked is None else {"method": "POST", "json": asked}
        async with self._http.AsyncClient(**self._how) as client, client.stream(url=self.url + path, **how) as reply:
            body = bytearray()
            async for part in reply.aiter_raw():
                body += part
                if len(body) > self.body:
                    raise Failed(LARGE, f"more than {self.body:,} bytes", replied=True)
            wait = re.fullmatch("[0-9]{1,9}", reply.headers.get("retry-after", ""))
            return Sent(reply.status_code, float(wait[0]) if wait else 0.0, bytes(body))


@cache
def _trusted() -> ssl.SSLContext:
    """Whose certificates are believed; takes a third of a second to read."""
    context: ssl.SSLContext = extra("httpx", "servers that are asked", "openai").create_ssl_context()
    return context
