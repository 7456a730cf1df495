"""`GET /`: the live page, one document that asks the team through `/v1` and shows what each agent does.

Its parts are the files of `serve/page`. They are put into one document, and the Content-Security-Policy names each part
by its digest: nothing else of the page can be a script or a style, and it can ask nothing but this server.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response

router = APIRouter()

_STYLE = re.compile(r'<link rel="stylesheet" href="([a-z]+\.css)">')
_SCRIPT = re.compile(r'<script src="([a-z]+\.js)"></script>')


@dataclass(frozen=True, kw_only=True)
class LivePage:
    """The document, and the policy that a browser must hold it to."""

    html: bytes
    policy: str  # the value of Content-Security-Policy
    tag: str  # the value of ETag


@cache
def live_page() -> LivePage:
    """Make the page from its parts."""
    digests: dict[str, list[str]] = {"style": [], "script": []}

    def inline(element: str, name: str) -> str:
        text = _part(name)
        digests[element].append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
        return f"<{element}>{text}</{element}>"

    html = _STYLE.sub(lambda found: inline("style", found[1]), _part("index.html"))
    html = _SCRIPT.sub(lambda found: inline("script", found[1]), html)
    policy = {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",  # the empty icon
        "style-src": " ".join(digests["style"]),
        "script-src": " ".join(digests["script"]),
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    body = html.encode()
    return LivePage(
        html=body,
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        tag=f'"{hashlib.sha256(body).hexdigest()[:32]}"',
    )


def _part(name: str) -> str:
    return files("latentmas_ray.serve").joinpath("page", name).read_text(encoding="utf-8")


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def show_page(request: Request) -> Response:
    """The live page. It holds no secret, so it needs no API key; what it asks does."""
    page = live_page()
    headers = {
        "Content-Security-Policy": page.policy,
        "ETag": page.tag,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    if request.headers.get("if-none-match") == page.tag:
        return Response(status_code=304, headers=headers)
    return Response(page.html, media_type="text/html", headers=headers)
