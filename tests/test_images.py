"""Pictures of every kind are opened as a viewer shows them, or refused in one line."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from ddmd.errors import InputError
from ddmd.images import open_image, picture_files

HALVES = np.zeros((16, 16, 3), np.uint8)
HALVES[:8, :, 0] = HALVES[8:, :, 2] = 255  # red above blue


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        image.save(out, kind, **options)
    return out.getvalue()


def opened(image, kind="PNG", **options):
    found = open_image(encoded(image, kind, **options))
    assert found.mode == "RGB"
    return found


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_turn_of_exif(kind, tag):
    back = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180], 4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE], 8: [Image.Transpose.ROTATE_270],
    }  # fmt: skip
    lying = Image.fromarray(HALVES)
    for turn in back.get(tag, []):
        lying = lying.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = tag
    found = np.asarray(opened(lying, kind, exif=exif), float)
    assert np.abs(found - HALVES)[2:6].max() < 8 and np.abs(found - HALVES)[10:14].max() < 8


def test_damaged_exif_is_none():
    found = opened(Image.fromarray(HALVES), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x01\x12")
    assert np.array_equal(found, HALVES)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_sixteen_bits(kind):
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for mode in ("I;16", "I"):
        image = Image.fromarray(ramp) if mode == "I;16" else Image.fromarray(ramp.astype(np.int32))
        assert image.mode == mode
        found = np.asarray(opened(image, kind))
        assert np.array_equal(found, np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2))


def test_fractions_are_grey_and_other_numbers_are_refused():
    assert opened(Image.new("F", (2, 2), 0.5), "TIFF").getpixel((0, 0)) == (128, 128, 128)
    for mode, value in (("F", 200.0), ("F", float("nan")), ("I", 70_000), ("I", -1)):
        with pytest.raises(InputError, match="grey values from"):
            opened(Image.new(mode, (2, 2), value), "TIFF")


def test_what_is_transparent_is_white():
    red, half = (255, 0, 0, 255), (0, 0, 0, 128)
    image = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    image.putpixel((1, 0), red)
    image.putpixel((0, 1), half)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        found = opened(image, kind, **options)
        assert [found.getpixel(at) for at in ((0, 0), (1, 0), (0, 1))] == [(255, 255, 255), (255, 0, 0), (127, 127, 127)]
    grey = Image.new("LA", (2, 1), (40, 0))
    grey.putpixel((1, 0), (40, 255))
    assert [opened(grey).getpixel((x, 0)) for x in (0, 1)] == [(255,) * 3, (40,) * 3]


@pytest.mark.parametrize(
    ("image", "clear"),
    [
        (Image.fromarray(np.array([[3, 200]], np.uint8)), 3),
        (Image.fromarray(np.array([[3, 51400]], np.uint16)), 3),
        (Image.fromarray(np.array([[[1, 2, 3], [200, 200, 200]]], np.uint8)), (1, 2, 3)),
        (Image.fromarray(np.array([[False, True]])), 0),
    ],
)
def test_one_colour_may_be_transparent(image, clear):
    found = opened(image, transparency=clear)
    assert found.getpixel((0, 0)) == (255, 255, 255)
    assert found.getpixel((1, 0)) == ((255,) * 3 if image.mode == "1" else (200,) * 3)


def test_palettes_and_one_bit():
    palette = Image.fromarray(HALVES).quantize(4)
    assert palette.mode == "P" and np.array_equal(opened(palette), HALVES)
    first = palette.getpixel((0, 0))
    assert opened(palette, transparency=first).getpixel((0, 0)) == (255, 255, 255)
    faded = opened(palette, transparency=bytes([128] * 4))  # an alpha for each entry
    assert faded.getpixel((0, 0)) == (255, 127, 127)
    board = Image.fromarray(np.eye(4, dtype=bool))
    assert opened(board).getpixel((1, 1)) == (255, 255, 255) and opened(board).getpixel((1, 0)) == (0, 0, 0)


def test_cmyk():
    found = opened(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100).getpixel((4, 4))
    assert found[0] > 240 and max(found[1:]) < 16


def swapped_profile():
    """A profile whose red is sRGB's green and the other way round."""
    blob = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", blob, 128)
    places = {bytes(blob[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    blob[red + 4 : red + 12], blob[green + 4 : green + 12] = blob[green + 4 : green + 12], blob[red + 4 : red + 12]
    return bytes(blob)


def test_an_embedded_profile_is_followed_in_every_mode():
    profile = swapped_profile()
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    seen = {
        "plain": opened(red, icc_profile=profile).getpixel((0, 0)),
        "palette": opened(red.quantize(2), icc_profile=profile).getpixel((0, 0)),
        "alpha": opened(red.convert("RGBA"), icc_profile=profile).getpixel((0, 0)),
        "jpeg": opened(red, "JPEG", icc_profile=profile, quality=100).getpixel((0, 0)),
    }
    for name, found in seen.items():
        assert found[1] > 245 and max(found[0], found[2]) < 10, (name, found)
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert opened(clear, icc_profile=profile).getpixel((0, 0)) == (255, 255, 255)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.abs(np.asarray(opened(Image.fromarray(HALVES), icc_profile=srgb), int) - HALVES).max() <= 1


def test_a_profile_that_does_not_fit_is_passed_over():
    for profile in (b"no profile", swapped_profile()[:200]):
        assert np.array_equal(opened(Image.fromarray(HALVES), icc_profile=profile), HALVES)
    grey = Image.new("L", (4, 4), 90)
    assert opened(grey, icc_profile=swapped_profile()).getpixel((0, 0)) == (90, 90, 90)


def test_of_a_film_the_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        found = opened(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
        assert found.getpixel((0, 0)) == (255, 0, 0), kind


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, body=b"\0" * 1000):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def test_bombs_and_damage_are_one_line(tmp_path):
    path = tmp_path / "a.png"
    for content, said in (
        (png(20_000, 20_000), "more than 179 megapixels"),
        (png(64, 64), "truncated"),
        (png(0, 5), r"\("),
        (encoded(Image.fromarray(HALVES))[:60], r"\("),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:300], "(?i)truncated"),
        (b"", "no known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no known format"),  # would start Ghostscript
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said) as caught:
            open_image(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    for missing in (tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError):
            open_image(missing)


def test_long_text_is_no_fault():
    """Node graphs in PNG are longer than PIL takes of itself."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * (2 << 20), zip=True)
    assert np.array_equal(opened(Image.fromarray(HALVES), pnginfo=info), HALVES)


def test_only_a_plain_file_is_passed_on_by_its_path(tmp_path):
    """Scorers in processes of their own read a file barely, so they get ours unless it says the same."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(HALVES)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.save(tmp_path / "profile.png", icc_profile=swapped_profile())
    told = {path.name: open_image(path).info for path in picture_files(tmp_path, (".png", ".jpg"))}
    assert told == {"plain.png": {"path": str(tmp_path / "plain.png")}, "turned.jpg": {}, "alpha.png": {}, "profile.png": {}}
