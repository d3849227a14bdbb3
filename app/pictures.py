"""What the models can look at: samples, photographs, uploads."""

from __future__ import annotations

import hashlib

from cache import Cache
from messages import UserError, readable
from PIL import Image

from sfkd.loading import load_pictures

ALL_SAMPLES = "all"
MAX_PIXELS = 50_000_000


class Pictures:
    """Pictures by source: "test:3", "photo:cat", "upload:…" or "all"; the latest 64 uploads are kept."""

    def __init__(self) -> None:
        self._uploads: Cache[Image.Image] = Cache(64)

    @readable
    def gallery(self, count: int = 20) -> list[tuple[str, Image.Image, str]]:
        """Images offered at first sight: source, picture, caption."""
        pictures = load_pictures()
        photographs = [(f"photo:{name}", image, name) for name, image in pictures.photographs.items()]
        tests = [
            (f"test:{i}", image, pictures.classes[pictures.labels[i]])
            for i, image in enumerate(pictures.images[:count])
        ]
        return tests + photographs

    @readable
    def upload(self, path: str | None) -> str:
        """Keep an uploaded picture; returns its source."""
        if path is None:
            raise UserError("No file came: choose a PNG, JPEG, GIF, BMP or WebP picture.")
        try:
            with Image.open(path, formats=("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width}×{image.height}"
                    raise UserError(f"The picture has {size} pixels; at most {MAX_PIXELS // 10**6} million are read.")
                picture = image.convert("RGB")
        except UserError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(
                "This file cannot be read as a picture: choose a PNG, JPEG, GIF, BMP or WebP file."
            ) from error
        picture.thumbnail((1024, 1024))
        source = f"upload:{hashlib.sha256(picture.tobytes()).hexdigest()[:16]}"
        self._uploads.put(source, picture)
        return source

    def of(self, source: str) -> list[Image.Image]:
        """The picture or pictures of a source."""
        kind, _, name = source.partition(":")
        pictures = load_pictures()
        if source == ALL_SAMPLES:
            return pictures.images
        if kind == "upload":
            found = self._uploads.get(source)
            if found is None:
                raise UserError("This upload is no longer kept here: upload it again.")
            return [found]
        if kind == "photo" and name in pictures.photographs:
            return [pictures.photographs[name]]
        if kind == "test" and name.isdigit() and int(name) < len(pictures.images):
            return [pictures.images[int(name)]]
        raise UserError("That image is not among the samples: choose one from the strip.")
