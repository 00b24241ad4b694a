"""The report in a browser: Chromium without a screen, at the widths of a phone and a desktop, light and dark."""

import html
import json
import re
import shutil
import subprocess

import pytest
from made_up_runs import LOSS, PIXEL, training_row, write_answers, write_lines, write_run

from t5x_mini.report.page import page
from t5x_mini.report.run_data import read_runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (375, 1440)

# Looks at the page from inside, and tells the page around it. Coloured ink: axes and grid are grey.
PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
console.error = (...words) => errors.push(words.join(" "));
const pause = () => new Promise((done) => setTimeout(done, 200));
const ink = (canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) {
    const [red, green, blue, alpha] = data.subarray(i, i + 4);
    if (alpha && Math.max(red, green, blue) - Math.min(red, green, blue) > 60) count++;
  }
  return count;
};
const inks = () => [...document.querySelectorAll("canvas")].map(ink);
addEventListener("load", async () => {
  await pause();
  const before = inks();
  const run = document.querySelector("[data-run='1']");
  run.click();
  await pause();
  const without = inks();
  run.click();
  document.getElementById("log-x").click();
  document.querySelectorAll(".log-y").forEach((button) => button.click());
  await pause();
  const found = {
    width: innerWidth,
    needs: document.documentElement.scrollWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    background: getComputedStyle(document.body).backgroundColor,
    figures: document.querySelectorAll("[data-chart]").length,
    before, without, after: inks(), errors,
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
FRAMES = """<body><pre id="found"></pre>
<script>
addEventListener("message", (event) => { document.getElementById("found").textContent += event.data + "\\n"; });
</script>
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page, and one with a frame of it at each width: a window is never as narrow as a phone."""
    folder = tmp_path_factory.mktemp("pages")
    names = ("one", "two_with_a_rather_long_name_that_has_to_fit")
    runs = [write_run(folder / name, batch_size=16 * count) for count, name in enumerate(names, 1)]
    for count, run in enumerate(runs, 1):
        more = {"grad_rms/token_embedder": 0.1 * count, "mfu": 0.2 * count, "param_norm": 9.0 * count}
        rows = [training_row(100 + step, count * (3 - step / 100), **more) for step in range(1, 100)]
        write_lines(run / "metrics.jsonl", [*rows, {**training_row(200), LOSS: "NaN"}])
        (run / "masks.png").write_bytes(PIXEL)
        long_word = "<b>" + "x" * 300
        write_answers(
            run, "letters", 50, [{"inputs": long_word, "prediction": long_word, "targets": "<script>a</script>"}]
        )
        masked = {"inputs": "a <extra_id_0> c", "targets": "<extra_id_0> b", "prediction": "<extra_id_0> d"}
        write_answers(run, "spans", 50, [masked])
    (folder / "page.html").write_text(
        page(read_runs([str(run) for run in runs])).replace("<head>", f"<head>{PROBE}", 1)
    )
    frames = [
        f'<iframe src="page.html" style="width: {width}px; height: 900px; border: 0"></iframe>' for width in WIDTHS
    ]
    (folder / "frames.html").write_text(FRAMES + "\n".join(frames))
    return folder / "frames.html"


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_works_in_a_browser(pages, dark, tmp_path):
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    options = "--headless=new --no-sandbox --disable-gpu --window-size=1500,1000 --virtual-time-budget=20000 --dump-dom"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [CHROMIUM, *options.split(), profile, *scheme, pages.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', ran.stdout, re.DOTALL)
    looks = [json.loads(html.unescape(line)) for line in found.splitlines()]
    assert sorted(look["width"] for look in looks) == sorted(WIDTHS), ran.stderr
    for look in looks:
        assert look["errors"] == []
        assert look["needs"] <= look["width"]
        assert look["dark"] is dark
        assert (sum(map(int, re.findall(r"\d+", look["background"])[:3])) < 200) is dark
        assert len(look["before"]) == len(look["after"]) == look["figures"] > 8
        assert all(ink > 20 for ink in look["before"] + look["after"])
        assert sum(look["without"]) < sum(look["before"])  # a run that is switched off goes
