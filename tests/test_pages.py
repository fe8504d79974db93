"""Tables and pages: nothing that a cell says can break out of it."""

from ddmd.pages import html_table, inline_image, markdown_table, page

ROWS = [["", "overall"], ["a|b <i>&\nc", "0.9"]]


def test_tables_hold_any_text():
    assert markdown_table(ROWS) == "|  | overall |\n| --- | --- |\n| a\\|b &lt;i&gt;&amp; c | 0.9 |"
    assert html_table(ROWS) == (
        "<table><tr><th scope=col></th><th scope=col>overall</th></tr><tr><td>a|b &lt;i&gt;&amp;\nc</td><td>0.9</td></tr></table>"
    )


def test_a_page_stands_alone():
    made = page("<runs>", ["<p>x</p>", inline_image(b"png", '"quoted"')], "p { color: red }")
    assert "<title>&lt;runs&gt;</title>" in made and "default-src 'none'" in made and "p { color: red }" in made
    assert 'alt="&quot;quoted&quot;" src="data:image/png;base64,cG5n"' in made and "http:" not in made
