"""Text that shells, terminals, rich, Markdown and matplotlib make something else of unless they are kept from it."""

from __future__ import annotations

_PLAIN = [
    *("[/b]", "[bold]", "[unknown]", "[link=https://example.org]x", "[red]x[/red]", "a[0]", "\\[b]", "[@click=x]"),
    *(":smile:", "::smile::", "|", "`x`", "``", "<b>x</b>", "<!-- x", "&lt;", "*x*", "_x_", "__x__", "~~x~~"),
    *("# x", "- x", "+ x", "1. x", "12) x", "===", "---", "> x", "![x](y)", "[x](y)", "https://example.org/?a=b_c_d"),
    *("$x_$", "$5 off $x_", "\\$", "$\\frac{", "%s", "{x}", "{0}", "=1+1", '"x"', "'x'", "a\\nb", "-5", "--help"),
    *("é", "e\u0301", "日本語", "مرحبا", "\u202eabc", "a\u200bb", "😀", "👩‍👩‍👧", "x" * 300, "a  b"),
]  # fmt: skip
# What is to be seen of each: control characters as escapes, all else as it is.
SHOWN = {text: text for text in _PLAIN} | {
    "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\x1b[2J\x1b[H": "\\x1b[2J\\x1b[H",
    "two\nlines": "two\\nlines",
    "back\rover": "back\\rover",
    "tab\tbed": "tab\\tbed",
    "\x08\x7f\x9b31m": "\\x08\\x7f\\x9b31m",
    "next\x85line\u2028sep\u2029": "next\\x85line\\u2028sep\\u2029",
}
# The name of a folder, without what file systems refuse.
FOLDER = "set[v2] [bold] :smile: $x_$ |`*\x1b[2J\n<b>"
FOLDER_SHOWN = FOLDER.replace("\x1b", "\\x1b").replace("\n", "\\n")
