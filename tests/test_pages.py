"""Tables and pages: nothing that a cell says can break out of it."""

import io

from PIL import Image

from ddmd.pages import PREVIEW, html_table, inline_image, linked_image, markdown_table, page, picture_table, preview

ROWS = [["", "overall"], ["a|b <i>&\nc", "0.9"]]


def test_tables_hold_any_text():
    assert markdown_table(ROWS) == "|  | overall |\n| --- | --- |\n| a\\|b &lt;i&gt;&amp; c | 0.9 |"
    assert html_table(ROWS) == (
        "<div class=wide><table><tr><th scope=col></th><th scope=col>overall</th></tr>"
        "<tr><td>a|b &lt;i&gt;&amp;\nc</td><td>0.9</td></tr></table></div>"
    )


def test_a_page_stands_alone():
    made = page("<runs>", ["<p>x</p>", inline_image(b"png", '"quoted"')], "p { color: red }")
    assert "<title>&lt;runs&gt;</title>" in made and "default-src 'none'" in made and "p { color: red }" in made
    assert 'alt="&quot;quoted&quot;" src="data:image/png;base64,cG5n"' in made and "http:" not in made


def encoded(image, kind="PNG"):
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def test_a_small_picture_is_shown_as_it_is_and_a_large_one_by_a_preview():
    small = encoded(Image.new("RGB", (300, 900), "red"))
    assert preview(small, "x") == (small, "x", "image/png")
    large = encoded(Image.effect_noise((1800, 900), 90).convert("RGB"))
    shown, _, kind = preview(large)
    found = Image.open(io.BytesIO(shown))
    assert kind == "image/jpeg" and abs(found.width / found.height - 2) < 0.01 and found.width * found.height <= 1.01 * PREVIEW
    assert len(shown) < len(large) / 3
    assert linked_image(small, "samples/a b#.png", "x").startswith('<a href="samples/a%20b%23.png"><img alt="x" src="data:image/png')


def test_pictures_side_by_side():
    table = picture_table({"<a>": ["1", "2"], "b": ["3", "4"]}, ["one & two", "three"])
    assert "<th scope=col>&lt;a&gt;</th>" in table and "<td>one &amp; two</td><td>1</td><td>3</td>" in table
