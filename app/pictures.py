"""What the models can look at: samples, photographs, uploads."""

from __future__ import annotations

import base64
import io
import secrets
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from cache import Cache
from messages import UserError, readable
from PIL import Image, ImageOps

from sfkd.loading import load_pictures

MAX_PIXELS = 50_000_000
UPLOAD_SIDE = 1024
_UPLOAD_BYTES = 128 * 2**20
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
# what Pillow's readers raise on files that are not what they say
_DAMAGED = (
    *(OSError, ValueError, TypeError, SyntaxError, EOFError, LookupError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
_SAMPLES = 20
_THUMBNAIL = (56, 56)
_OWN = "your picture"


class Thumbnail(NamedTuple):
    """A picture as the strip shows it: its source, what it is, and a data URI."""

    source: str
    label: str
    uri: str


class Pictures:
    """Pictures by source: "test:3", "photo:cat", "mean:24" (the first 24 samples) or "upload:…".

    An upload's source is drawn at random, so that nobody but who uploaded it can name it; the latest are kept, at most
    128 MiB of pixels.
    """

    def __init__(self) -> None:
        self._uploads: Cache[Image.Image] = Cache(_UPLOAD_BYTES, lambda image: 3 * image.width * image.height)

    @readable
    def strip(self) -> list[Thumbnail]:
        """Pictures offered at first sight."""
        pictures = load_pictures()
        tests = [
            _thumbnail(f"test:{i}", pictures.classes[pictures.labels[i]], image)
            for i, image in enumerate(pictures.images[:_SAMPLES])
        ]
        return tests + [_thumbnail(f"photo:{name}", name, image) for name, image in pictures.photographs.items()]

    @readable
    def upload(self, path: str | None) -> Thumbnail:
        """Keep an uploaded picture and remove its file."""
        if path is None:
            raise UserError("No file came: choose a PNG, JPEG, GIF, BMP or WebP picture.")
        try:
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width}×{image.height}"
                    raise UserError(f"The picture has {size} pixels; at most {MAX_PIXELS // 10**6} million are read.")
                picture = ImageOps.exif_transpose(image).convert("RGB")
        except UserError:
            raise
        except _DAMAGED as error:
            raise UserError(
                "This file cannot be read as a picture: choose a PNG, JPEG, GIF, BMP or WebP file."
            ) from error
        finally:
            Path(path).unlink(missing_ok=True)  # Gradio would hand it to whoever names it
        picture.thumbnail((UPLOAD_SIDE, UPLOAD_SIDE))
        source = f"upload:{secrets.token_urlsafe(16)}"
        self._uploads.put(source, picture)
        return _thumbnail(source, _OWN, picture)

    def of(self, source: str) -> list[Image.Image]:
        """The picture or pictures of a source."""
        kind, _, name = source.partition(":")
        pictures = load_pictures()
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 6 else -1
        if kind == "mean" and 1 <= number <= len(pictures.images):
            return pictures.images[:number]
        if kind == "upload":
            found = self._uploads.get(source)
            if found is None:
                raise UserError("This upload is no longer kept here: upload it again.")
            return [found]
        if kind == "photo" and name in pictures.photographs:
            return [pictures.photographs[name]]
        if kind == "test" and 0 <= number < len(pictures.images):
            return [pictures.images[number]]
        raise UserError(f"There is no image {source!r} here: choose one from the strip.")

    def own(self, source: str) -> Thumbnail | None:
        """An upload that is still kept, as the strip shows it; None for any other source."""
        found = self._uploads.get(source)
        return None if found is None else _thumbnail(source, _OWN, found)

    def describe(self, source: str) -> str:
        """A source in words."""
        kind, _, name = source.partition(":")
        pictures = load_pictures()
        if kind == "test":
            return f"test image {name}, label “{pictures.classes[pictures.labels[int(name)]]}”"
        if kind == "mean":
            return f"mean over {name} sample image{'s' * (name != '1')}"
        return f"photograph “{name}”" if kind == "photo" else _OWN


def _thumbnail(source: str, label: str, picture: Image.Image) -> Thumbnail:
    small = picture.copy()
    small.thumbnail(_THUMBNAIL)
    file, form = io.BytesIO(), "PNG" if small.mode == "L" else "JPEG"
    small.save(file, form, **({"quality": 80} if form == "JPEG" else {"optimize": True}))
    return Thumbnail(source, label, f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}")
