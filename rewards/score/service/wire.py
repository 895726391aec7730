"""The JSON between client and service, and its way to and from exchanges.

    POST /score   {"images": [{"data": "<base64>"}, {"path": "a/b.png"}],
                   "exchanges": [{"messages": [{"role": "user", "content": "How many ships?"},
                                               {"role": "assistant", "content": "Two."}], "images": [0]}, …]}
    200           {"scores": [1.25, null, …], "model": "<fingerprint>",
                   "errors": {"1": "why this exchange has no score"}, "cut": [0]}
    4xx, 5xx      {"error": "what was found, expected, what to do", "errors": {"0": …}}

`errors` are of single exchanges, which fail alone; where all of them failed, the status says so, and without `errors`
it was the request as a whole. `cut` are exchanges whose answer was longer than the model reads. Both are left out where
they are empty.

Messages and images travel apart, never as rendered text: what the chat template looks like, and that images stand
before the text, is the model's to know (the published service put the text first). Images are a table that exchanges
point into, because the candidates of a group share one. They travel as the encoded bytes of their file, in base64: a
third more bytes than multipart, but one document that any client can write, checked as a whole before anything is
decoded. Paths are for services that see the same files, and only below the folder that their recipe names.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from rewards.score.model.exchange import Exchange
from rewards.score.service.recipe import MOST, LimitsSection
from vlm.common.errors import DataError, RecipeError
from vlm.pictures import images as pictures
from vlm.pictures.rasters import named, split
from vlm.sections import RasterSection

LONGEST_NAME, LONGEST_PATH = 100, 500
"""Characters of a key, and of a path, that a message repeats."""
SENT = 2**22
"""Pixels of a large picture that a service gets: more than any score model sees."""


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class Message(_Model):
    role: Literal["user", "assistant"]
    content: str


class Picture(_Model):
    """Exactly one of the two."""

    data: bytes | None = None
    path: str | None = None


class WireExchange(_Model):
    messages: Annotated[list[Message], Field(min_length=2, max_length=1024)]
    images: Annotated[list[NonNegativeInt], Field(max_length=1024)] = []


class ScoreRequest(_Model):
    images: Annotated[list[Picture], Field(max_length=MOST)] = []
    exchanges: Annotated[list[WireExchange], Field(min_length=1, max_length=MOST)]


class ScoreReply(_Model):
    scores: list[FiniteFloat | None]
    model: str
    errors: dict[int, str] = {}
    cut: list[NonNegativeInt] = []


class Refusal(_Model):
    """An answer with a status of 400 or more."""

    error: str
    errors: dict[int, str] = {}


class Refused(Exception):
    """The request cannot be served as it is. `status`: the HTTP status that says so."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


# Client: exchanges → requests.


def requests_of(
    exchanges: Sequence[Exchange], max_exchanges: int, max_bytes: int, image_root: str | None = None
) -> Iterator[ScoreRequest]:
    """The exchanges in order, cut where a request would exceed a number of exchanges or of image bytes.

    An exchange larger than max_bytes goes alone. An image file below `image_root` travels as its path.
    Raises: DataError for an image that cannot be read.
    """
    request, places, size = _empty(), {}, 0
    for exchange in exchanges:
        keys = [id(image) if isinstance(image, Image.Image) else image for image in exchange.images]
        new = {
            key: _picture(image, image_root)
            for key, image in zip(keys, exchange.images, strict=True)
            if key not in places
        }
        added = sum(len(picture.data or b"") for picture in new.values())
        if request.exchanges and (len(request.exchanges) == max_exchanges or size + added > max_bytes):
            yield request
            known = request.images
            new = {key: known[places[key]] if key in places else new[key] for key in keys}
            added = sum(len(picture.data or b"") for picture in new.values())
            request, places, size = _empty(), {}, 0
        for key, picture in new.items():
            places[key] = len(request.images)
            request.images.append(picture)
        size += added
        messages = [Message(role=turn["role"], content=turn["content"]) for turn in exchange.messages]
        request.exchanges.append(WireExchange(messages=messages, images=[places[key] for key in keys]))
    if request.exchanges:
        yield request


def _empty() -> ScoreRequest:
    return ScoreRequest.model_construct(images=[], exchanges=[])


def _picture(image: Any, image_root: str | None) -> Picture:
    if not isinstance(image, Image.Image) and split(image)[1] is not None:
        image = pictures.preview(image, SENT)  # as the recipe shows this raster: a service knows nothing of it
    if isinstance(image, bytes):
        return Picture(data=image)
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG", compress_level=1)  # lossless: the service must see the same pixels
        return Picture(data=file.getvalue())
    path = Path(os.path.abspath(image))
    if image_root is not None and path.is_relative_to(root := os.path.abspath(image_root)):
        return Picture(path=path.relative_to(root).as_posix())
    try:
        width, height = pictures.size(image)
    except DataError:  # the service says what is wrong, or reads it as its own recipe says
        width = height = 0
    if width * height > pictures.LARGE:
        return _picture(pictures.preview(image, SENT), None)
    try:
        return Picture(data=path.read_bytes())
    except OSError as error:
        raise DataError(f"image {image}: cannot be read ({error.strerror})") from error


def halves(request: ScoreRequest) -> list[ScoreRequest]:
    """Of a request of several exchanges: each with the images that it shows."""
    middle, made = len(request.exchanges) // 2, []
    for exchanges in (request.exchanges[:middle], request.exchanges[middle:]):
        shown = sorted({index for exchange in exchanges for index in exchange.images})
        places = {index: place for place, index in enumerate(shown)}
        half = ScoreRequest.model_construct(
            images=[request.images[index] for index in shown],
            exchanges=[
                WireExchange(messages=exchange.messages, images=[places[index] for index in exchange.images])
                for exchange in exchanges
            ],
        )
        made.append(half)
    return made


# Service: a request's body → exchanges.


@dataclass(frozen=True, slots=True)
class Row:
    """An exchange of a request, or why it is none."""

    exchange: Exchange | None = None
    cut: bool = False
    "Its answer has lost its end."
    refusal: Refused | None = None


def decode(
    body: bytes, limits: LimitsSection, image_root: str | None, raster: RasterSection | None = None
) -> list[Row]:
    """The exchanges of a request, each image of the table one object, nothing decoded but headers.

    raster: how rasters are read that a client sends as they are.

    Raises: Refused with 413 beyond a limit of the request, 422 where it is none. Beyond a limit of an exchange or an
    image (413), for a path that is not allowed (403) or anything else that is wrong with it (422), its row is refused.
    """
    try:
        request = ScoreRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:LONGEST_NAME] for part in first["loc"]) or "request"
        raise Refused(422, f"{where}: {first['msg']}") from None
    if len(request.exchanges) > limits.exchanges:
        raise Refused(
            413, f"found {len(request.exchanges)} exchanges, at most {limits.exchanges} are taken; send fewer at a time"
        )
    shown = max(len(request.images), sum(len(exchange.images) for exchange in request.exchanges))
    if shown > limits.images:
        raise Refused(413, f"found {shown} images, at most {limits.images} are taken; send fewer exchanges at a time")
    total, images = 0, []
    for number, picture in enumerate(request.images):
        try:
            image = named(_image(picture, number, image_root), raster)
            total += _pixels(image, number, limits)
            images.append(image)
        except Refused as refusal:
            images.append(refusal)
    if total > limits.request_pixels:
        raise Refused(
            413, f"found {total} pixels in {len(images)} images, at most {limits.request_pixels} are taken at a time"
        )
    return [_row(exchange, number, images, limits) for number, exchange in enumerate(request.exchanges)]


def _row(found: WireExchange, number: int, images: list[str | bytes | Refused], limits: LimitsSection) -> Row:
    try:
        shown = [_shown(index, number, images) for index in _few(found.images, number, limits)]
        messages = [message.model_dump() for message in found.messages]
        over = sum(len(turn["content"]) for turn in messages) - limits.characters
        if over > 0:
            answer = messages[-1]["content"]
            if over > len(answer):
                raise Refused(
                    413,
                    f"exchanges.{number}: found {limits.characters + over - len(answer)} characters before the last "
                    f"turn, at most {limits.characters} are taken",
                )
            messages[-1]["content"] = answer[: len(answer) - over]
        return Row(Exchange(tuple(messages), tuple(shown)), over > 0)
    except Refused as refusal:
        return Row(refusal=refusal)
    except DataError as error:
        return Row(refusal=Refused(422, f"exchanges.{number}: {error}"))


def _few(indexes: list[int], number: int, limits: LimitsSection) -> list[int]:
    if len(indexes) > limits.exchange_images:
        raise Refused(
            413, f"exchanges.{number}: found {len(indexes)} images, at most {limits.exchange_images} are taken"
        )
    return indexes


def _shown(index: int, number: int, images: list[str | bytes | Refused]) -> str | bytes:
    if index >= len(images):
        raise Refused(422, f"exchanges.{number}.images: found {index}, expected an index below {len(images)}")
    image = images[index]
    if isinstance(image, Refused):
        raise image
    return image


def _image(picture: Picture, number: int, image_root: str | None) -> str | bytes:
    if (picture.data is None) == (picture.path is None):
        raise Refused(422, f"images.{number}: expected either data or path")
    if picture.data is not None:
        return picture.data
    if image_root is None:
        raise Refused(403, f"images.{number}: found a path, but this service takes bytes only (its image_root is null)")
    root = Path(image_root).resolve()
    try:
        path = (root / picture.path).resolve()  # follows symbolic links, too, before it is judged
        inside = path.is_relative_to(root) and path.is_file()
    except (OSError, ValueError):  # a name too long, or with a null byte
        inside = False
    if not inside:  # the same answer for what is missing and what lies outside: no probing
        raise Refused(403, f"images.{number}: no image {picture.path[:LONGEST_PATH]!r} below this service's image_root")
    return str(path)


def _pixels(image: str | bytes, number: int, limits: LimitsSection) -> int:
    """By the header alone. Raises: Refused for what would take too much memory once decoded."""
    try:
        width, height = pictures.size(image)
    except (DataError, RecipeError) as error:  # the latter where rasterio is not installed
        raise Refused(422, f"images.{number}: {error}") from error
    if width * height > limits.image_pixels:
        raise Refused(
            413,
            f"images.{number}: found {width} x {height} pixels, at most {limits.image_pixels} are taken; reduce the "
            "image, the model sees no more than its max_pixels anyway",
        )
    return width * height
