"""The one door for pictures of others: whatever their file says, upright, in sRGB, 8 bits, on white."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from .errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # by content; others may start programs
ORIENTATION = 0x0112  # EXIF's tag
WHITE = 255

# Node graphs of some thousand nodes are common in PNG; the sum of all text has a bound of its own.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# Pictures over 89 megapixels are no attack (over 179 they are refused, below), and what PIL finds
# odd about metadata does not matter here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def picture_files(folder: Path, suffixes: tuple[str, ...], deep: bool = False) -> list[Path]:
    """The files of a folder that are named as pictures, by name; none that is hidden.

    Archives and disks that macOS wrote hold a `._name.png` beside each picture, which is none.
    """
    found = folder.rglob("*") if deep else folder.iterdir()
    named = (p for p in found if p.suffix.lower() in suffixes and not p.name.startswith("."))
    return sorted(path for path in named if path.is_file())


def open_image(source: Path | bytes, name: str = "") -> Image.Image:
    """A picture as a viewer shows it: RGB, the first frame, turned as EXIF says, sRGB, on white.

    A file that says the same when read barely carries its path in `info["path"]`. Raises InputError
    naming `name` (or the path) for a file that is missing, damaged, no picture or over 179 megapixels.
    """
    label = name or (str(source) if isinstance(source, Path) else "a picture")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as file:
            if not min(file.size):
                raise ValueError("no pixels")
            image = _upright(file)
            plain = image is file and file.mode == "RGB" and not file.info.keys() & {"icc_profile", "transparency"}
            shown = _on_white(image)
    except Image.DecompressionBombError as error:
        raise InputError(label, "a picture of more than 179 megapixels", "make it smaller or take it out") from error
    except FileNotFoundError as error:
        raise InputError(label, "no such file", "give a picture that is there") from error
    except Exception as error:  # what a damaged file raises depends on the byte
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        reason = "of no known format" if isinstance(error, Image.UnidentifiedImageError) else reason
        raise InputError(label, f"not a picture that can be read ({reason})", "mend it or take it out") from error
    shown.info = {"path": str(source.resolve())} if plain and isinstance(source, Path) else {}
    return shown


def _upright(file: Image.Image) -> Image.Image:
    """The picture turned as its EXIF data say; itself where they say nothing, or cannot be read."""
    file.load()
    try:
        turn = file.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data in a whole picture: viewers show it as it lies
        return file
    return ImageOps.exif_transpose(file) if turn in range(2, 9) else file


def _on_white(image: Image.Image) -> Image.Image:
    """RGB in sRGB; where the picture is transparent, white shows."""
    profile, alpha = image.info.get("icc_profile"), None
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image, alpha = _eight_bits(image)
    elif image.has_transparency_data:
        layered = image.convert("RGBA")
        alpha = layered.getchannel("A")
        grey = image.mode in ("LA", "La", "L", "1")
        image = image.convert("L") if grey else layered.convert("RGB")
    elif image.mode in ("P", "1"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    colours = _in_srgb(image, profile)
    if alpha is None:
        return colours
    page = Image.new("RGBA", colours.size, "white")
    colours.putalpha(alpha)
    page.alpha_composite(colours)
    return page.convert("RGB")


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Grey of 16 bits, or of fractions from 0 to 1, as 8 bits, and its alpha where one grey is transparent."""
    values = np.asarray(image)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        found = f"grey values from {values.min():g} to {values.max():g}"
        raise ValueError(f"{found}, not 0 to {top:g}")
    grey = Image.fromarray((values.astype(np.float64) * (255 / top)).round().astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is None:
        return grey, None
    return grey, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, by the embedded profile where there is one that fits the picture."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            shown = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (OSError, ImageCms.PyCMSError):  # damaged, or of another colour model: as viewers do, without it
            return image.convert("RGB")
        if shown is not None:
            return shown
    return image.convert("RGB")
