"""Every error of an app in OpenAI's form: ours, FastAPI's own, and those that no one expected."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from latentmas_ray.serve.api.errors import ApiError, reason_for_log, shown, translate

_LOG = logging.getLogger(__name__)
_LOGGED = (500, 503)


def add_error_handlers(app: FastAPI) -> None:
    """Let `app` answer every error with a status and a body in OpenAI's form."""
    app.add_exception_handler(ApiError, _on_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_error)


def error_response(error: ApiError) -> JSONResponse:
    """Return the response of an error."""
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


def log_mistake(found: ApiError, error: BaseException, scope: Scope) -> None:
    """Log an error of the team or of ours, with the request's id, its reason and its place, but without what may be a
    part of a prompt. `found` is what the client gets for it, which has none of that."""
    if found is error or found.status not in _LOGGED:
        return
    request_id = scope.get("state", {}).get("request_id", "-")
    _LOG.error("request %s: %s at %s", request_id, reason_for_log(error), _place(error))


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    found = translate(error)
    log_mistake(found, error, request.scope)
    return error_response(found)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    place = shown(f"{request.method} {request.url.path}")
    methods = (error.headers or {}).get("Allow", "another method")
    known = {404: ("there is no such path", "not_found"), 405: (f"it takes {methods}", "method_not_allowed")}
    reason, code = known.get(error.status_code, (shown(str(error.detail)), "http_error"))
    response = error_response(ApiError(error.status_code, f"{place}: {reason}", None, code))
    response.headers.update(error.headers or {})
    return response


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return error_response(ApiError(400, f"{param or 'request'}: {first['msg']}", param, "invalid_value"))


def _place(error: BaseException) -> str:
    """Return the file and line in which an error was raised."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "-" if last is None else f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"
