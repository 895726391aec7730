"""What a recipe of the score service holds (`recipes/score/serve.yaml`)."""

from __future__ import annotations

from typing import Literal

from vlm.common.addresses import is_loopback
from vlm.common.errors import RecipeError
from vlm.common.section import LocatedPath, Section
from vlm.sections import CheckpointSection, PictureSection, PixelSection

MOST = 16384
"""Exchanges or images of a request, whatever a recipe allows: where parsing stops, before anything is counted."""


class ServedModelSection(CheckpointSection):
    path: LocatedPath
    "Checkpoint of a score model: a folder or a hub id, ours or in the published layout."
    positions: Literal["mrope", "sequential"] | None = None
    "Rotary positions the weights were trained with; without it, what the checkpoint says."
    device: str | None = None
    "Where it runs, e.g. cuda:1; without it, the first GPU, or the CPU where there is none."
    images: PixelSection | None = None
    "Pixel limits that the score model was trained with; without them, the checkpoint's own."


class BatchingSection(Section):
    """Which requests are scored together."""

    max_batch: int = 16
    "Exchanges in one forward pass."
    max_tokens: int = 65536
    "Exchanges · tokens of the longest, estimated, in one forward pass; an exchange that is longer is scored alone."
    share_prefix: bool = True
    "Compute once in a pass what its exchanges about an image have in common; false computes each one in full."
    window: float = 0.01
    "Seconds for which a request waits for others; 0 takes what is there."
    max_waiting: int = 1024
    "Exchanges in the queue; beyond it the service says it is busy, and the client asks another replica or waits."

    def check(self) -> None:
        for name in ("max_batch", "max_tokens", "max_waiting"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} = {getattr(self, name)}; expected at least 1")
        if not 0 <= self.window <= 10:
            raise RecipeError(f"window = {self.window}; expected seconds from 0 to 10")


class LimitsSection(Section):
    """What one request may ask for, and all of them together."""

    body_bytes: int = 64 * 2**20
    "Of the request's body; base64 makes images a third larger."
    exchanges: int = 256
    "In one request."
    images: int = 1024
    "In one request; one that several exchanges show counts for each."
    exchange_images: int = 32
    "In one exchange: each is worth up to `max_pixels` of visual tokens."
    characters: int = 131072
    "Of all turns of one exchange, four to each of 32,768 tokens; a longer answer is cut there, and counted."
    image_pixels: int = 32 * 2**20
    "Of one image, as its header says; a small file can hold a very large picture."
    request_pixels: int = 512 * 2**20
    "Of all images of a request."
    all_bytes: int = 4 * 2**30
    'Of the bodies of all requests that are under way; those beyond get a "busy" reply.'
    connections: int = 2048
    'Requests under way at a time, of clients with the token; those beyond get a "busy" reply.'
    strangers: int = 1024
    "Connections of one address that have not shown the token yet; the next one has the oldest closed."

    header: float = 10.0
    "Seconds for a connection to show the token, and for a request's header; who is slower is cut off."
    receive: float = 60.0
    "Seconds for a request's body to arrive; who is slower is cut off."
    answer: float = 900.0
    'Seconds from then until the scores, less where the client waits less (ours says so); after them a "busy" reply.'

    def check(self) -> None:
        for name, value in self:
            if isinstance(value, float) and not 0 < value <= 86400:
                raise RecipeError(f"{name} = {value}; expected seconds, more than 0 and at most 86400")
            if isinstance(value, int) and value < 1:
                raise RecipeError(f"{name} = {value}; expected at least 1")
        for name, value in (("exchanges", self.exchanges), ("images", self.images)):
            if value > MOST:
                raise RecipeError(f"{name} = {value}; expected at most {MOST}")


class ServeRecipe(Section):
    """Serve one score model over HTTP. Replicas are several such processes, each on its own port and device.

    Without TLS: on a network that others use, put it behind a proxy that has it, or use an SSH tunnel.
    """

    first = (
        "stage model.path model.positions model.dtype model.attention host port token_variable image_root "
        "batching.max_batch batching.window"
    )
    model: ServedModelSection
    "The score model."
    stage: Literal["serve"] = "serve"
    "Which launcher the recipe is for."
    host: str = "127.0.0.1"
    "Address to listen on; anything but this machine's own loopback needs `token_variable`."
    port: int = 8100
    "Port to listen on; 0 takes a free one and logs it."
    token_variable: str | None = None
    "Name of the environment variable that holds the bearer token; the token itself is never written in a recipe."
    image_root: LocatedPath | None = None
    "Folder below which requests may name image files by path; without it, images travel as bytes only."
    images: PictureSection = PictureSection()
    "How images of requests are opened; Nadir's own clients send rasters as their recipe shows them."
    batching: BatchingSection = BatchingSection()
    "Which requests are scored together."
    limits: LimitsSection = LimitsSection()
    "What one request may ask for."

    def check(self) -> None:
        if not 0 <= self.port <= 65535:
            raise RecipeError(f"port = {self.port}; expected 0 to 65535")
        if self.token_variable is not None and not self.token_variable.isidentifier():
            raise RecipeError(  # not quoted: it may be the token, put here by mistake
                "token_variable is no variable's name; write the name of an environment variable that holds the token"
            )
        if self.token_variable is None and not is_loopback(self.host):
            raise RecipeError(
                f"host = {self.host} can be reached by others, and there is no token; write token_variable: "
                "NADIR_SCORE_TOKEN and put a secret into that variable, or host: 127.0.0.1"
            )
