"""The documentation as a site: what it says of settings and commands, and, slower, the whole of it as built."""

import ast
import functools
import html
import html.parser
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse

import pytest
import yaml
from pymdownx import slugs

from t5x_mini import configurables
from t5x_mini.commands.parser import make_parser

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs" / "reference"))

import cross_links  # noqa: E402
import entries  # noqa: E402
import pages  # noqa: E402
import source_pages  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
slugify = slugs.slugify(case="lower")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
MACROS = [entry for group in entries.macro_groups() for entry in group.entries]
DEFAULTS = (ROOT / "gin" / "defaults.gin").read_text()
FIELDS = [entry for group in entries.field_groups() for entry in group.entries]


# Settings


def test_every_macro_and_every_field_has_a_meaning():
    assert [entry.name for entry in (*MACROS, *FIELDS) if len(entry.meaning.split()) < 2] == []


def test_every_macro_feeds_a_field_and_stands_under_a_heading():
    fields = {entry.name for entry in FIELDS}
    assert [entry.name for entry in MACROS] == re.findall(r"^([A-Z_]+) =", DEFAULTS, re.MULTILINE)
    assert all(entry.others and fields.issuperset(entry.others) for entry in MACROS)
    assert [group.title for group in entries.macro_groups()][:2] == ["What is trained on", "The model"]


def test_a_setting_is_described_by_what_the_code_says():
    by_name = {entry.name: entry for entry in (*MACROS, *FIELDS)}
    batch_size = by_name["BATCH_SIZE"]
    assert batch_size.type == "a whole number; above 0"
    assert batch_size.default == ""
    assert batch_size.others == ("FeedConfig.batch_size",)
    assert batch_size.meaning == "Rows a step, over all hosts and microbatches."
    assert by_name["RANDOM_SEED"].others == ("FeedConfig.seed", "TrainConfig.random_seed")
    assert by_name["OBJECTIVE"].default == "`@SpanCorruption()`"
    assert by_name["FeedConfig.batch_size"].others == ("BATCH_SIZE",)
    assert by_name["TransformerConfig.emb_dim"].default == "`512`"
    assert by_name["RunConfig.optimizer"].default == "`@Adafactor()`"
    assert by_name["FeedConfig.task_feature_lengths"].default == ""
    assert "`MODEL_DIR`" in by_name["EVAL_OUTPUT_DIR"].meaning
    assert by_name["LossConfig.normalizing_factor"].type == "a number or a string or `None`"


def test_what_gin_cannot_bind_is_not_among_the_settings():
    names = {entry.name for entry in FIELDS}
    assert names.isdisjoint({"FeedConfig.tasks", "PretrainingTask.name", "TextToTextTask.write"})
    assert {name.split(".")[0] for name in names} <= set(configurables.configurables())


def test_plain_text_is_shown_as_it_is():
    assert entries.escaped(r"(r'x/(.*)', r'y/\1') of `a_b`, <x> and A_B") == (
        r"(r'x/(.\*)', r'y/\\1') of `a_b`, \<x> and A\_B"
    )
    assert entries.escaped("a\n    [b] *c*\n*d*") == "a\n    [b] *c*\n\\*d\\*"
    assert entries.escaped("of A_B, and `A_B`", re.compile(r"\b(A_B)\b")) == "of `A_B`, and `A_B`"


# Commands


def test_the_page_of_commands_has_every_option():
    text = pages.commands()
    for name, parser in make_parser()[1].items():
        section = text.split(f"{{ #{name} }}")[1].split("\n## ")[0]
        for action in parser._actions:
            assert all(f"`{option}" in section for option in action.option_strings if action.dest != "help")
    for spelt in ("`--overfit_one_batch [STEPS]`", "`--text FILE ...`", "`--compare A B`", "`[TEXT ...]`", "`{masks}`"):
        assert spelt in text


# Links


def test_a_link_out_of_docs_leads_to_a_page_with_the_file():
    made = source_pages.source_pages({"docs/a.md": "[this](../gin/quickstart.gin), [that](../data/README.md)"})
    assert set(made) >= {"source/gin/quickstart.gin.md", "source/data/README.md.md"}
    assert (ROOT / "gin" / "quickstart.gin").read_text().strip() in made["source/gin/quickstart.gin.md"]
    text = source_pages.for_site("a.md", "[x](../gin/quickstart.gin#top) [y](b.md) ![z](images/masks.png)")
    assert text == "[x](source/gin/quickstart.gin.md#top) [y](b.md) ![z](images/masks.png)"


def test_links_of_the_readme_are_the_sites():
    text = "[x](docs/data.md#a) ![y](docs/images/masks.png) [z](Makefile) [w](https://example.com/a)"
    assert source_pages.for_site("source/README.md.md", text) == (
        "[x](../data.md#a) ![y](../images/masks.png) [z](Makefile.md) [w](https://example.com/a)"
    )


def test_a_folder_lists_its_files_with_a_page_for_each():
    made = source_pages.source_pages({"docs/a.md": "[x](../gin/optimizers/)"})
    assert set(made) >= {"source/gin/optimizers/index.md", "source/gin/optimizers/adafactor.gin.md"}
    page = source_pages.for_site("source/gin/optimizers/index.md", made["source/gin/optimizers/index.md"])
    assert "[`adafactor.gin`](adafactor.gin.md)" in page


def test_names_in_code_lead_to_their_meaning():
    known = cross_links.targets({"BATCH_SIZE"}, {"TransformerConfig.emb_dim"}, {"train"})
    macro, field = "reference/macros.html#BATCH_SIZE", "reference/fields.html#TransformerConfig.emb_dim"
    for code, target in [
        ("BATCH_SIZE", macro),
        ("BATCH_SIZE = 32", macro),
        ("--gin.BATCH_SIZE=32", macro),
        ("TransformerConfig.emb_dim = 768", field),
        ("t5x-mini train --dry_run", "reference/commands.html#train"),
    ]:
        linked = cross_links.linked(f"<p><code>{code}</code></p>", known, "../")
        assert linked == f'<p><a class="name" href="../{target}"><code>{code}</code></a></p>'
    for text in (
        "<code>BATCH</code>",
        "<h2><code>BATCH_SIZE</code></h2>",
        '<a href="x"><code>BATCH_SIZE</code></a>',
        "<pre><code>BATCH_SIZE</code></pre>",
    ):
        assert cross_links.linked(text, known, "") == text


# Troubleshooting


def _literals(path):
    """The strings of a module, with `…` for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_error_that_is_explained_is_one_of_the_program():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    fragments = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    said = "\n".join(text for path in (ROOT / "t5x_mini").rglob("*.py") for text in _literals(path))
    assert len(fragments) == len(re.findall("^### ", page, re.MULTILINE)) > 25
    assert [fragment for fragment in fragments if fragment not in said] == []


# Anchors and navigation


def _anchors(page):
    """Of the headings of a page in `docs/`, as the site makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {slugify(re.sub(r"\[(.*?)\]\(.*?\)|`", r"\1", heading), "-") for heading in headings}


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_to_headings(page):
    for target, anchor in re.findall(r"\]\(([\w/.-]*\.md)?#([^)]+)\)", page.read_text()):
        assert anchor in _anchors(page.parent / target if target else page), f"{target}#{anchor}"


def _pages_of(nav):
    for item in nav:
        for value in item.values():
            yield from _pages_of(value) if isinstance(value, list) else [value]


class _Yaml(yaml.SafeLoader):
    """mkdocs.yml names a function of Python for the anchors, of no concern here."""


_Yaml.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def test_every_page_is_in_the_navigation_and_nothing_else():
    named = list(_pages_of(yaml.load((ROOT / "mkdocs.yml").read_text(), _Yaml)["nav"]))
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert len(named) == len(set(named))
    assert set(named) == written | set(pages.all_pages())


# The site as it is built


class Page(html.parser.HTMLParser):
    """Of one page: anchors, what it links to, what it loads, and the text of its paragraphs."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads, self.paragraphs = set(), [], [], []
        self._in_paragraph = False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag == "link" and attributes.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.loads.append(attributes["href"])
        elif tag in ("script", "img", "iframe", "source") and "src" in attributes:
            self.loads.append(attributes["src"])
        if tag == "p":
            self._in_paragraph = True
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        self._in_paragraph &= tag != "p"

    def handle_data(self, data):
        if self._in_paragraph:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(build, cwd=ROOT, env=env, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def built(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


def _local(page, link):
    """Where a link of a page leads: a path in the site, and an anchor; None if out of the site."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = os.path.normpath(os.path.join(os.path.dirname(page), urllib.parse.unquote(parts.path)))
    return (path if parts.path else page), urllib.parse.unquote(parts.fragment)


def test_every_link_and_anchor_of_the_site_leads_somewhere(site, built):
    broken = []
    for page, content in built.items():
        if page == "404.html":  # its links begin at the server's root
            continue
        for link in [*content.links, *content.loads]:
            path, anchor = _local(page, link) or (None, None)
            if path and not (site / path).exists():
                broken.append((page, link))
            if anchor and path in built and anchor not in built[path].anchors:
                broken.append((page, link))
    assert broken == []


def test_nothing_is_loaded_from_another_host(site, built):
    loaded = [(page, link) for page, content in built.items() for link in content.loads]
    assert [pair for pair in loaded if re.match(r"(?:https?:)?//", pair[1])] == []
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", style.read_text()) == [], style


def test_no_block_of_markdown_ends_up_in_a_paragraph(built):
    # A git host takes a list or a table right below a line of text for one, Python's Markdown doesn't.
    marks = re.compile(r"^\s*(?:[-*] |\d+\. |```|\|.*\||#+ )", re.MULTILINE)
    inside = [(page, text[:80]) for page, content in built.items() for text in content.paragraphs if marks.search(text)]
    assert inside == []


def test_a_search_finds_settings_commands_and_errors(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    for words in (
        "BATCH_SIZE",
        "TransformerConfig.emb_dim",
        "--overfit_one_batch",
        "make_masks",
        "These have no value",
    ):
        assert any(words in entry["title"] + entry["text"] for entry in index["docs"]), words
    assert not any(entry["location"].startswith("source/") for entry in index["docs"])


# Opens pages one after the other in a frame as wide as a phone, and writes down those that are wider.
PHONE = """<pre id="found"></pre><script>
const look = (path) => new Promise((done) => {
  const frame = document.createElement("iframe");
  Object.assign(frame.style, { width: "390px", height: "844px" });
  frame.onload = () => setTimeout(() => {
    const needs = frame.contentDocument.documentElement.scrollWidth;
    frame.remove();
    done([path, needs]);
  }, 500);
  frame.src = path;
  document.body.append(frame);
});
(async () => {
  const found = [];
  for (const path of PAGES) found.push(await look(path));
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>"""


def _dom(tmp_path, address):
    """The page at an address as Chromium has it in the end."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --virtual-time-budget=200000 --dump-dom"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path}", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=300).stdout


@pytest.mark.slow
@needs_chromium
def test_no_page_is_wider_than_a_phone(site, built, tmp_path):
    (site / "phone.html").write_text(PHONE.replace("PAGES", json.dumps(sorted(set(built) - {"404.html"}))))
    handler = functools.partial(_Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = _dom(tmp_path, f"http://127.0.0.1:{server.server_port}/phone.html")
        server.shutdown()
    (site / "phone.html").unlink()
    found = json.loads(html.unescape(re.search(r'id="found">(.*?)</pre>', page, re.DOTALL)[1]))
    assert len(found) == len(built) - 1
    assert [(path, needs) for path, needs in found if needs > 390] == []


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


# What is pasted into the search box, and the section that is looked for.
PASTED = {
    "t5x-mini: error: the mesh asks for data=-1, fsdp=1, model=64, but there are 8 devices; the product must be 8": (
        "troubleshooting.html#-but-there-are--devices-the-product-must-be-"
    ),
    "t5x-mini: error: The checkpoint runs/quickstart/checkpoints/120 is damaged:": (
        "troubleshooting.html#the-checkpoint--is-damaged"
    ),
    "t5x-mini: error: t5x.gin, line 1: this is written for T5X and binds classes that don't exist here.": (
        "troubleshooting.html#this-is-written-for-t5x-and-binds-classes-that-dont-exist-here"
    ),
    "--gin.BATCH_SIZE=32": "reference/macros.html#BATCH_SIZE",
    "emb_dim": "reference/fields.html#TransformerConfig.emb_dim",
    "t5x-mini train": "reference/commands.html#train",
}


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("pasted", PASTED)
def test_a_search_without_a_server_finds_what_was_pasted(site, tmp_path, pasted):
    page = _dom(tmp_path, f"{(site / 'index.html').as_uri()}?q={urllib.parse.quote(pasted)}")
    links = [re.sub(r"\?h=[^#]*", "", link) for link in re.findall(r'<a href="(\S*)" class="md-search-result__', page)]
    # First the page by itself, then its best sections.
    assert f"{site.as_uri()}/{PASTED[pasted]}" in links[:3]
