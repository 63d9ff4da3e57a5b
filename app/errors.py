"""The answers to errors that FastAPI's own handlers leave as a 500."""

import json
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, TimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.database import is_away

# Seconds after which a client may ask again while the database is away.
RETRY_AFTER = 1
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class Problem(BaseModel):
    """The body of every error but 422."""

    detail: str


def documented(**descriptions: str) -> dict[int | str, dict[str, Any]]:
    """For `responses=`: what a route answers beside its own and 422, as `status_404="There is no such …"`."""
    return {int(name[-3:]): {"model": Problem, "description": text} for name, text in descriptions.items()}


async def database_away(_request: Request, error: Exception) -> Response:
    """503 with Retry-After when the database can't be used now; any other error of it is a bug, and stays a 500."""
    if not is_away(error):
        raise error
    body = {"detail": "The database can't be reached, or is busy."}
    return JSONResponse(body, status_code=503, headers={"Retry-After": str(RETRY_AFTER)})


async def invalid(request: Request, error: RequestValidationError) -> Response:
    """FastAPI's 422; without the input where that can't be written as JSON (NaN, 1e999, half of a surrogate pair)."""
    try:
        return await request_validation_exception_handler(request, error)
    except ValueError:
        details = [{name: detail[name] for name in ("type", "loc", "msg")} for detail in error.errors()]
        body = json.dumps({"detail": jsonable_encoder(details)})
        return Response(body, status_code=422, media_type="application/json")


async def method_not_allowed(request: Request, error: HTTPException) -> Response:
    """405 with every method of the path in Allow: Starlette names those of the first route that has it."""

    def fits(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] == Match.FULL for route in request.app.routes)

    allowed = filter(fits, METHODS)
    body = {"detail": error.detail}
    return JSONResponse(body, status_code=405, headers={"Allow": ", ".join(allowed)})


def install(app: FastAPI) -> None:
    app.add_exception_handler(DBAPIError, database_away)
    app.add_exception_handler(TimeoutError, database_away)
    app.exception_handler(RequestValidationError)(invalid)
    app.exception_handler(405)(method_not_allowed)
