"""The pages of a report in headless Chromium: nothing is wider than the page, and all pictures and clips load."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from make_report import make_hostile_run
from make_videos import write_mp4

from train.pages.blocks import PAGES, Heat, Page, Section, write_pages
from train.pictures.prediction import Prediction, write_pictures
from train.report import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DARK = ["--blink-settings=preferredColorScheme=0"]
# A page that shows another one in a frame of the width of a phone or a screen, and writes what it measures.
MEASURES = """<body style="margin:0"><iframe src="SOURCE" style="border:0;width:WIDTHpx;height:2000px"></iframe><pre></pre>
<script>
const frame = document.querySelector("iframe");
frame.onload = async () => {
  const page = frame.contentDocument, root = page.documentElement, all = name => [...page.querySelectorAll(name)];
  for (const each of all("details")) each.open = true;
  const ended = each => each.complete || new Promise(done => { each.onload = each.onerror = done; });
  await Promise.all(all("img").map(ended));
  const metadata = each => each.readyState || each.error || new Promise(done => {
    for (const event of ["loadedmetadata", "error"]) each.addEventListener(event, done);
    each.querySelector("source").addEventListener("error", done);
  });
  await Promise.all(all("video").map(metadata));
  const right = each => each.getBoundingClientRect().right;
  document.querySelector("pre").textContent = JSON.stringify({
    width: root.clientWidth, overflow: root.scrollWidth - root.clientWidth, paper: getComputedStyle(page.body).backgroundColor,
    outside: all("body *").filter(each => !each.closest(".scroll *") && right(each) > root.clientWidth + 1).map(each => each.outerHTML.slice(0, 200)),
    broken: all("img").filter(each => !each.naturalWidth).map(each => each.src),
    stretched: all("img").filter(each => Math.abs(each.height - each.width * each.naturalHeight / each.naturalWidth) > 1.5).map(each => each.src),
    clips: all("video").filter(each => each.offsetWidth).length, stills: all(".still").filter(each => each.offsetWidth).length,
    silent: all("video").filter(each => !each.videoWidth).map(each => each.outerHTML),
    pictures: all("img").map(each => each.currentSrc), small: all("p, td, th, figcaption").map(each => parseFloat(getComputedStyle(each).fontSize)).filter(size => size < 13),
  });
};
</script>"""  # noqa: E501
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Of two runs, so that tables have a column more."""
    run = make_hostile_run(tmp_path_factory.mktemp("browser"))
    out = tmp_path_factory.mktemp("report") / "out"
    other = shutil.copytree(run, run.with_name("20260102-000000"))
    main(["-c", str(run.parents[2] / "tiny.yaml"), "--output-dir", str(out), "--run", str(run), "--run", str(other)])
    return out


def measured(page: Path, width: int, *flags: str) -> dict:
    """What the browser finds in a page of a width."""
    wrapper = page.parent.parent / "measures.html"
    wrapper.write_text(MEASURES.replace("SOURCE", page.as_uri()).replace("WIDTH", str(width)))
    return facts_of(wrapper, f"--window-size={max(width, 500)},2000", *flags)


def facts_of(page: Path, *flags: str) -> dict:
    """What a page writes about itself in the browser."""
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom",
        "--virtual-time-budget=20000", *flags, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = re.search(r"<pre>(.+?)</pre>", done.stdout, re.S)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    return json.loads(unescape(found[1]))


@pytest.mark.parametrize("flags", [[], DARK], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_and_everything_loads(name: str, width: int, flags: list[str], report: Path):
    facts = measured(report / name, width, *flags)
    assert facts["width"] >= width - 20  # a scroll bar
    assert facts["overflow"] == 0 and facts["outside"] == []
    assert facts["broken"] == [] and facts["stretched"] == [] and facts["silent"] == [] and facts["small"] == []
    assert facts["stills"] == 0 and (facts["clips"] > 0) == (name == "evaluation.html")
    charts = {"light" in source for source in facts["pictures"] if "-light." in source or "-dark." in source}
    assert charts <= {not flags}, "the charts of the other theme"
    assert (facts["paper"] == "rgb(244, 245, 247)") == (not flags)


@pytest.mark.parametrize("name", PAGES)
def test_paper_is_as_wide_as_every_table(name: str, report: Path):
    """The rules for paper on a screen of the width of A4 without margins: there, nothing can be scrolled."""
    text = (report / name).read_text(encoding="utf-8")
    assert "@media print" in text
    (report / "paper.html").write_text(text.replace("@media print", "@media all"), encoding="utf-8")
    facts = measured(report / "paper.html", 702)
    assert facts["overflow"] == 0 and facts["outside"] == [] and facts["broken"] == []
    assert facts["clips"] == 0 and (facts["stills"] > 0) == (name == "evaluation.html"), "buttons are not for paper"


CONTRASTS = """<pre></pre><script>
const numbers = text => text.match(/[0-9.]+/g).slice(0, 3).map(each => parseFloat(each) / (text.startsWith("rgb") ? 255 : 1));
const light = text => numbers(text).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
document.querySelector("pre").textContent = JSON.stringify([...document.querySelectorAll(".heat td")].map(cell => {
  const style = getComputedStyle(cell), both = [light(style.color), light(style.backgroundColor)];
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05); }));
</script>"""  # noqa: E501


@pytest.mark.parametrize("flags", [[], DARK], ids=["light", "dark"])
def test_numbers_are_read_on_every_shade(flags: list[str], tmp_path: Path):
    shades = [(str(number), number / 20) for number in range(21)]
    heat = Heat([str(number) for number in range(21)], [shades])
    write_pages(tmp_path, {"index.html": Page("shades", [Section("Shades", [heat])])}, "")
    page = tmp_path / "index.html"
    page.write_text(page.read_text().replace("</body>", CONTRASTS))
    contrasts = facts_of(page, *flags)
    assert len(contrasts) == 21 and min(contrasts) > 3.5


PLAYS = """<body><video src="MP4" preload="auto" muted></video><img src="GIF"><pre></pre><script>
const video = document.querySelector("video"), image = document.querySelector("img");
onload = () => { document.querySelector("pre").textContent = JSON.stringify({
  video: [video.videoWidth, video.videoHeight], image: [image.naturalWidth, image.naturalHeight],
  duration: video.duration, ready: video.readyState, error: video.error && video.error.message }); };
</script>"""  # a page is loaded when the first frame of its video is decoded


@pytest.mark.parametrize("size", [(96, 160), (160, 96), (50, 1250)], ids=["wide", "portrait", "very wide"])
def test_pictures_of_infer_play(size: tuple[int, int], tmp_path: Path):
    """The browser decodes the MP4, and both files have the size that they should."""
    source = write_mp4(tmp_path / "a.mp4", 30, 30, size)
    prediction = Prediction([("<b>run & \u0644\u0639\u0628", 0.75), ("sit", 0.25)], "sit")
    mp4, gif = write_pictures(tmp_path / "b", source, prediction, span=None)
    page = tmp_path / "page.html"
    page.write_text(PLAYS.replace("MP4", mp4.as_uri()).replace("GIF", gif.as_uri()))
    facts = facts_of(page)
    assert facts["error"] is None and facts["ready"] >= 2
    assert facts["duration"] == pytest.approx(1.0, abs=0.05)
    assert facts["video"][0] == 480 and facts["image"][0] == 320
    for (width, height), shown in ((facts["video"], 480), (facts["image"], 320)):
        assert height > shown * min(size[0] / size[1], 1.0) and width == shown
