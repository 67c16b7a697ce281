"""The report page in a real browser: loads alone, says nothing, fits, can be walked through by link and by key, is not fooled."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minipipe.report import facts, index, page
from minipipe.store.home import Store
from tests.browser import runs
from tests.browser.chromium import Chromium, Page
from tests.browser.conftest import SHOTS
from tests.report import hostile

pytestmark = pytest.mark.browser

_CONTRAST = """
(() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = c => { const f = c.slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length && (c.length < 4 || c[3] > .99)) return c; } return [255, 255, 255]; };
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || ['title', 'desc', 'style'].includes(e.tagName)) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    if (svg && (e.closest('.mp-heat') || e.classList.contains('mp-inside'))) continue;  // on a coloured ground: looked at below
    const a = light(parse(svg ? style.fill : style.color)), b = light(ground(svg ? e.closest('svg').parentElement : e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push([e.tagName, e.className.baseVal || e.className, e.textContent.slice(0, 30), ratio.toFixed(2)]);
  }
  const on = (text, shape) => { const a = light(parse(getComputedStyle(text).fill)), b = light(parse(getComputedStyle(shape).fill));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); };
  for (const e of document.querySelectorAll('.mp-inside')) {
    const ratio = on(e, e.parentElement.querySelector('rect'));
    if (ratio < 4.5) low.push(['bar', e.textContent, ratio.toFixed(2)]);
  }
  for (const e of document.querySelectorAll('.mp-cell')) {
    const shape = getComputedStyle(e.previousElementSibling), share = Number(shape.fillOpacity), under = ground(e.closest('figure'));
    const mixed = parse(shape.fill).slice(0, 3).map((v, i) => v * share + under[i] * (1 - share));
    const a = light(parse(getComputedStyle(e).fill)), b = light(mixed);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push(['cell', e.textContent, ratio.toFixed(2)]);
  }
  return low;
})()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, copy_store: Callable[[Path], Store]) -> Iterator[dict[str, Path]]:
    """Pages by name: good, failed (a copy of good), index, plain, hostile."""
    folder = tmp_path_factory.mktemp("pages")
    store = copy_store(folder / "store")
    good = runs.fill(store)
    failed = runs.fill(store, good, lr="0.4", good=False)
    pages = {}
    entries = []
    for name, run in (("good", good), ("failed", failed)):
        found = facts.of_run(store, run)
        pages[name] = _write(folder, name, page.run_page(found))
        entries.append(index.entry_of(found, f"{name}.html"))
    pages["index"] = _write(folder, "index", page.index_page("2 runs", index.table_of(entries)))
    for name, text in (("plain", hostile.PLAIN), ("hostile", hostile.BAD)):
        other = copy_store(folder / f"store-{name}")
        pages[name] = _write(folder, name, page.run_page(facts.of_run(other, hostile.fill(other, text))))
        other.close()
    yield pages
    store.close()


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["good", "failed", "index", "hostile"])
def test_a_page_loads_alone_and_says_nothing(name: str, tab: Page, made: dict[str, Path]) -> None:
    tab.open(made[name])
    assert tab.messages() == []
    assert tab.requests() == [made[name].as_uri()]
    assert tab.value("document.scripts.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["good", "failed", "index"])
def test_a_page_fits_is_legible_and_follows_the_colour_scheme(
    name: str, width: int, scheme: str, tab: Page, made: dict[str, Path]
) -> None:
    tab.look(width, 900, scheme)
    tab.open(made[name])
    assert tab.value("innerWidth") == width
    assert tab.value("document.documentElement.scrollWidth") <= width
    ground = [int(part) for part in tab.value("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(",")]
    assert (sum(ground) < 3 * 60) == (scheme == "dark") and (sum(ground) > 3 * 200) == (scheme == "light")
    assert tab.value(_CONTRAST) == []
    height = min(tab.value("document.documentElement.scrollHeight"), 8000)
    tab.look(width, height, scheme)
    assert tab.shot(SHOTS / f"{name}-{width}-{scheme}.png", whole=False).stat().st_size > 10_000


def test_the_switch_changes_the_colours_without_script(tab: Page, made: dict[str, Path]) -> None:
    tab.open(made["good"])
    color = "getComputedStyle(document.body).backgroundColor"
    light = tab.value(color)
    tab.click("label[for=dark]")
    dark = tab.value(color)
    assert dark != light
    tab.press("ArrowLeft", 37)  # the switch is a group of radio buttons: the arrow chooses the one before
    assert tab.value(color) == light
    tab.look(1280, 900, "dark")
    assert tab.value(color) == light, "what was chosen holds, whatever the system prefers"
    tab.press("ArrowLeft", 37)
    assert tab.value(color) == dark


def test_every_node_of_the_graph_leads_to_the_section_of_its_step(tab: Page, made: dict[str, Path]) -> None:
    tab.open(made["good"])
    links: list[list[str]] = tab.value(
        "[...document.querySelectorAll('.mp-dag a')].map(a => [a.getAttribute('href'), a.ariaLabel])"
    )
    assert len(links) == 8
    for href, label in links:
        tab.click(f".mp-dag a[href='{href}']")
        assert tab.value("location.hash") == href
        top = tab.value(f"document.querySelector('{href}').getBoundingClientRect().top")
        assert 0 <= top < 900
        assert tab.value(f"document.querySelector('{href} h3').textContent").startswith(label.partition(",")[0])


def test_bars_of_the_timeline_lead_to_the_same_sections(tab: Page, made: dict[str, Path]) -> None:
    tab.open(made["good"])
    hrefs: list[str] = tab.value("[...document.querySelectorAll('.mp-gantt a')].map(a => a.getAttribute('href'))")
    assert sorted(hrefs) == [f"#step-{number}" for number in range(1, 9)]
    assert tab.value(f"{hrefs}.every(h => document.querySelector(h))") is True


def test_charts_have_their_points_inside_the_frame_and_say_values(tab: Page, made: dict[str, Path]) -> None:
    tab.open(made["good"])
    facts_of_lines: list[dict[str, Any]] = tab.value(
        "[...document.querySelectorAll('#charts .mp-line path')].map(p => { const b = p.getBBox(), v = p.ownerSVGElement.viewBox.baseVal;"
        " return {points: p.getAttribute('d').match(/-?\\d*\\.?\\d+/g).length / 2, long: p.getTotalLength(),"
        " inside: b.x >= 0 && b.y >= 0 && b.x + b.width <= v.width && b.y + b.height <= v.height}; })"
    )
    assert len(facts_of_lines) == 9
    assert all(one["points"] == 40 and one["long"] > 100 and one["inside"] for one in facts_of_lines)
    assert tab.value(
        "[...document.querySelectorAll('#charts .mp-hover title')].every(t => /^\\d+: [\\d., -]+$/.test(t.textContent))"
    )
    box: list[float] = tab.value(
        "(() => { const r = document.querySelector('.mp-hover rect:nth-child(5)'); r.scrollIntoView({block: 'center'});"
        " const b = r.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2, b.width, b.height]; })()"
    )
    assert box[2] > 3 and box[3] > 80
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    assert float(tab.value("getComputedStyle(document.querySelector('.mp-hover rect:nth-child(5)')).opacity")) > 0.1


def test_plots_are_drawn_and_pictures_shown(tab: Page, made: dict[str, Path]) -> None:
    tab.open(made["good"])
    titles: list[str] = tab.value("[...document.querySelectorAll('#plots figcaption')].map(c => c.firstChild.textContent.trim())")
    assert titles == ["confusion matrix", "embedding", "residuals", "class balance", "per class", "samples"]
    assert tab.value("document.querySelectorAll('#plots .mp-heat rect').length") == 16
    assert tab.value("document.querySelectorAll('#plots .mp-bars rect').length") == 24 + 8
    assert tab.value("[...document.images].map(i => [i.complete, i.naturalWidth])") == [[True, 96]]


def test_tab_reaches_every_link_in_reading_order_and_shows_where_it_is(tab: Page, made: dict[str, Path]) -> None:
    tab.open(made["failed"])
    where = (
        "(() => { const e = document.activeElement, s = getComputedStyle(e.matches('.mp-node') ? e.querySelector('.mp-card') :"
        " e.matches('.theme input') ? e.nextElementSibling : e); return [e.tagName, e.className.baseVal ?? e.className,"
        " e.getAttribute('href') || e.id, s.outlineStyle !== 'none' || parseFloat(s.strokeWidth) >= 3 || e.matches('.skip')]; })()"
    )
    seen: list[list[Any]] = []
    for _ in range(40):
        tab.press("Tab", 9)
        seen.append(tab.value(where))
    assert seen[0][:3] == ["A", "skip", "#main"]
    assert seen[1][2] == "auto"
    nodes = [one[2] for one in seen if str(one[1]).startswith("mp-node")]
    assert nodes == tab.value("[...document.querySelectorAll('.mp-dag a')].map(a => a.getAttribute('href'))") and len(nodes) == 8
    assert [one for one in seen if not one[3]] == []


def test_the_accessible_names_of_the_nodes_say_status_and_time(tab: Page, made: dict[str, Path]) -> None:
    tab.open(made["failed"])
    root = tab.send("DOM.getDocument")["root"]["nodeId"]
    found = tab.send("Accessibility.queryAXTree", nodeId=root, role="link")["nodes"]
    names = [node["name"]["value"] for node in found]
    assert "choose, failed, 1.4s" in names and "publish, skipped" in names


def test_print_opens_what_is_folded(tab: Page, made: dict[str, Path]) -> None:
    tab.open(made["good"])
    tab.send("Emulation.setEmulatedMedia", media="print")
    heights = "[...document.querySelectorAll('details:not([open]) > :not(summary)')].map(e => e.getBoundingClientRect().height)"
    found: list[float] = tab.value(heights)
    assert found and min(found) > 0


def test_hostile_text_changes_nothing_but_text(tab: Page, made: dict[str, Path]) -> None:
    tree = "[...document.querySelectorAll('*')].map(e => e.tagName + ' ' + [...e.attributes].map(a => a.name).join(' '))"
    tab.open(made["plain"])
    plain = tab.value(tree)
    tab.open(made["hostile"])
    assert tab.value(tree) == plain
    assert (
        tab.value("[...document.querySelectorAll('*')].some(e => [...e.attributes].some(a => a.name.startsWith('on')))") is False
    )
    assert tab.value(f"document.body.textContent.includes({hostile.MARK!r})") is True
    assert tab.value("[...document.links].every(a => a.getAttribute('href').startsWith('#'))") is True
    assert tab.value("document.documentElement.scrollWidth <= innerWidth") is True
    assert tab.events("Page.javascriptDialogOpening") == []
    tab.look(400, 900, "light")
    assert tab.value("document.documentElement.scrollWidth") <= 400


def test_the_index_leads_to_each_run(chromium: Chromium, tab: Page, made: dict[str, Path], tmp_path: Path) -> None:
    for name in ("index", "good", "failed"):
        shutil.copy(made[name], tmp_path)
    tab.open(tmp_path / "index.html")
    assert tab.value("[...document.querySelectorAll('tbody th a')].map(a => a.getAttribute('href'))") == [
        "good.html",
        "failed.html",
    ]
    assert tab.value("document.querySelectorAll('tr.differs').length") == 1
