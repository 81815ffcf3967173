"""The paths of the server: the page, `POST /predict`, what it serves, and whether it is well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from cifar_hapi._version import __version__
from cifar_hapi.report.thumbnails import data_uri
from cifar_hapi.serving.answering import Answered, Answering
from cifar_hapi.serving.body import BodyReceiver, Gone
from cifar_hapi.serving.facts import RunFacts, Served
from cifar_hapi.serving.guard import FAILED
from cifar_hapi.serving.multipart import BrokenMultipart, Part, TooManyParts, boundary_of, parts_of
from cifar_hapi.serving.options import ServingOptions
from cifar_hapi.serving.refusal import Refusal

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Seconds(BaseModel):
    """How long things took, in seconds."""

    decode: float = Field(description="From the file to pixels of the network's size")
    wait: float = Field(description="Until the batch began")
    network: float = Field(description="The forward pass of the whole batch")


class Prediction(BaseModel):
    """What the network says of one image."""

    file: str
    class_: str = Field(serialization_alias="class")
    probabilities: dict[str, float] = Field(description="By class name; their sum is 1")
    seconds: Seconds
    batch: int = Field(description="How many images the forward pass was shared by")
    seen: str | None = Field(None, description="The picture that the network saw, a PNG as a data URI, if asked for")


class Predictions(BaseModel):
    """What the network says of the images of a request, in their order."""

    run: RunFacts
    images: list[Prediction]


class Health(BaseModel):
    status: str
    waiting: int = Field(description="Images that are decoded or wait")


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str = Field(description="One sentence")
    image: int | None = Field(None, description="Which image of the request it is about, counted from 0")
    file: str | None = None


def create_app(served: Served, options: ServingOptions, answering: Answering) -> FastAPI:
    """The application; what `answering` asks is alive as long as it is."""
    app = FastAPI(
        title="cifar-hapi",
        summary=f"Images classified by the run {served.name}",
        version=__version__,
        docs_url=None,  # its page loads scripts from elsewhere, and so does the next one's
        redoc_url=None,
        redirect_slashes=False,
    )
    run, bodies = RunFacts(**served.model_dump(include=set(RunFacts.model_fields))), BodyReceiver(options)
    for path, (name, kind) in _FILES.items():
        app.add_api_route(path, _sender(name, kind), methods=["GET", "HEAD"], include_in_schema=False)

    @app.get("/run")
    async def run_facts() -> Served:
        """The run that answers, and what may be sent to it."""
        return served

    @app.get("/healthz", responses={503: {"model": Problem}})
    async def health() -> Health:
        """Whether requests can be answered."""
        answering.check()
        return Health(status="ok", waiting=answering.waiting)

    @app.post("/predict", openapi_extra={"requestBody": _REQUEST_BODY}, responses=_PROBLEMS)
    async def predict(
        request: Request,
        seen: Annotated[bool, Query(description="Whether to send back what the network saw")] = False,
    ) -> Predictions:
        """Classify one image or several: multipart/form-data, every part a file; or one image as the body itself."""
        async with bodies.received(request) as body:
            parts = _images(request.headers.get("content-type", ""), bytes(body), options.images)
            body.clear()
            found = await answering.answers(parts)
        return Predictions(run=run, images=[_prediction(each, served.class_names, seen) for each in found])

    _answer_refusals(app)
    return app


def _sender(name: str, kind: str) -> Any:
    content = (_PAGE / name).read_bytes()

    async def send() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return send


def _images(content_type: str, body: bytes, most: int) -> list[Part]:
    """The images of a request. Raises Refusal: 415 for another kind of body, 400 for a broken one, 413 for too many."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [Part("", body)]
    if kind != "multipart/form-data":
        raise Refusal(415, "send images as multipart/form-data, or one image as image/png or its like")
    try:
        parts = parts_of(body, boundary_of(content_type), most)
    except BrokenMultipart as error:
        raise Refusal(400, f"the request is broken: {error}") from None
    except TooManyParts:
        raise Refusal(413, f"the request holds more than {most} images; send them in several") from None
    if not parts:
        raise Refusal(400, "the request holds no image")
    return parts


def _prediction(answered: Answered, names: list[str], seen: bool) -> Prediction:
    answer, picture = answered.answer, answered.seen
    timings = Seconds(decode=answered.decode, wait=answer.waited, network=answer.network)
    return Prediction(
        file=answered.name,
        class_=names[int(answer.probabilities.argmax())],
        probabilities=dict(zip(names, answer.probabilities.tolist(), strict=True)),
        seconds=timings,
        batch=answer.batch,
        seen=data_uri(picture, len(picture)) if seen else None,
    )


def _answer_refusals(app: FastAPI) -> None:
    """Make everything that is not answered a status and one sentence of JSON."""

    @app.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> Response:
        return JSONResponse(refusal.content, refusal.status, refusal.headers)

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> Response:
        sentence = {
            404: "there is nothing here; the page is at /, images go to POST /predict",
            405: "this path takes other methods; see the header allow",
        }.get(error.status_code, str(error.detail))
        return JSONResponse({"error": sentence}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def refuse_query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        why = first["msg"].partition(",")[0].lower()  # "input should be a valid boolean"
        sentence = f"{first['loc'][-1]} cannot be {str(first['input'])[:40]!r}: {why}"
        return JSONResponse({"error": sentence}, 422)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": FAILED}, 500)  # the error is raised on, to the guard

    @app.exception_handler(Gone)
    async def leave(request: Request, error: Gone) -> Response:
        return Response(status_code=400)  # nobody is there to read it


_REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "Broken multipart, or no image",
        403: "A page of another site asks",
        408: "Too slow",
        413: "Too many bytes, images or pixels",
        415: "Another kind of body, or of image",
        421: "Another host is asked for",
        422: "A damaged image, or a value that a parameter cannot have",
        503: "Too much is waiting; see Retry-After",
    }.items()
}
