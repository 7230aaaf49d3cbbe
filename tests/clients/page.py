"""Looks at the dashboard as a person would: page.py URL FOLDER. Screenshots go to the folder."""

import json
import re
import sys
from urllib.parse import urlsplit
from urllib.request import urlopen

from playwright.sync_api import expect, sync_playwright

url, folder = sys.argv[1:]
CHROMIUM = {"executable_path": "/usr/bin/chromium"}
# Only a hang takes that long, however busy the machine.
PATIENCE_MS = 120_000
expect.set_options(timeout=PATIENCE_MS)


def numbers(text):
    return [float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def opened(browser, **context):
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(f"error: {error}"))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(url)
    expect(page.locator("#limits tr")).to_have_count(3)
    return page


def row(page, name):
    return page.locator("#limits tr", has=page.get_by_role("button", name=name, exact=True))


def choose(page, name):
    row(page, name).get_by_role("button").click()
    expect(page.locator("#detail-title")).to_have_text(name)


# Listens beside the page: [rate of the event, rate that the page shows of the same event].
RATES = """() => new Promise((done) => {
  const events = new EventSource("v1/events");
  const seen = [];
  events.addEventListener("limits", (event) => {
    const now = JSON.parse(event.data);
    const partner = now.limits.find((limit) => limit.name === "partner");
    const line = [...document.querySelectorAll("#limits tr")].find((line) => line.textContent.includes("partner"));
    // The page has had the same event as soon as it shows its moment.
    const shown = () => {
      const at = Number(document.body.dataset.at || 0);
      if (at < now.at) return setTimeout(shown, 5);
      if (at === now.at) seen.push([partner.permits_per_s, line.querySelector(".sent").textContent]);
      if (seen.length < 3) return;
      events.close();
      done(seen);
    };
    shown();
  });
})"""

# Texts of too little contrast with what is behind them (WCAG 2.2, 1.4.3): 4.5, or 3 if they are large.
PALE = """() => {
  const channels = (color) => {
    const found = color.match(/-?[\\d.]+/g).map(Number);
    const [r, g, b] = color.startsWith("color(") ? found.map((one) => one * 255) : found;
    return { rgb: [r, g, b], alpha: found.length > 3 ? found[3] : 1 };
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((one) => (one /= 255) <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const { rgb, alpha } = channels(getComputedStyle(node).backgroundColor);
    if (alpha === 1) return rgb;
    const below = node.parentElement ? behind(node.parentElement) : [255, 255, 255];
    return rgb.map((one, at) => one * alpha + below[at] * (1 - alpha));
  };
  const pale = [];
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].filter((one) => one.nodeType === 3).map((one) => one.data.trim()).join("");
    if (!text || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const color = channels(node.namespaceURI.endsWith("svg") ? style.fill : style.color).rgb;
    const [light, dark] = [luminance(color), luminance(behind(node))].sort((one, other) => other - one);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) pale.push(`${text}: ${contrast.toFixed(2)}`);
  }
  return pale;
}"""

SUMS = """() => [...document.querySelectorAll("#what-if-rows tr")].map(
  (line) => [...line.cells].slice(1).map((cell) => Number(cell.textContent.replaceAll(",", ""))))"""


def is_readable(page):
    pale = page.evaluate(PALE)
    assert not pale, pale


def first_state(browser):
    """Without a script there are no graphs, and everything else."""
    page = opened(browser, java_script_enabled=False, viewport={"width": 1200, "height": 900})
    health = json.load(urlopen(f"{url}healthz"))
    assert page.locator("#version").inner_text() == health["version"]
    assert page.locator("#status").inner_text() in ("Serving", "Degraded")
    for fact in ("uptime", "state", "store", "drain"):
        assert page.locator(f"#{fact}").inner_text(), fact
    expect(page.locator("#warned code").first).to_have_text("proxy.toml:13:24")
    expect(row(page, "partner")).to_be_visible()
    expect(row(page, "partner").locator(".rule")).to_have_text("20 per 1s")
    expect(row(page, "uploads").locator(".window")).to_have_text(re.compile("0 of 4"))
    expect(page.locator("noscript p")).to_be_visible()
    expect(page.locator(".graphs").first).to_be_hidden()
    page.context.close()


def overview(page):
    expect(page.locator("#warnings-title")).to_have_text("2 warnings about the configuration file")
    expect(page.locator("#warned li").first).to_contain_text("this limit counts no https requests to any host")
    expect(page.locator("#status")).to_have_text("Serving")
    expect(page.locator("#uptime")).to_have_text(re.compile(r"^\d+ (s|min|h)"))
    for fact, value in (("state", "ok"), ("store", "off"), ("drain", "off")):
        expect(page.locator(f"#{fact}")).to_have_text(value)
    # Something to see before a limit is chosen.
    expect(page.locator("#detail")).to_be_hidden()
    for graph, unit in (("#gateway-rate", r"^\d+(\.\d+)?/s$"), ("#gateway-waiting", r"^\d+$")):
        expect(page.locator(f"{graph} path").first).to_have_attribute("d", re.compile("^M.*L"))
        has_axes(page, graph, unit)
    expect(page.locator("#requests")).not_to_have_text("0")
    expect(page.locator("#waiting")).not_to_have_text("0")


def has_axes(page, graph, unit):
    """Times below, values with their unit on the left."""
    times = page.locator(f"{graph} text.time").all_text_contents()
    assert len(times) >= 3 and all(re.fullmatch(r"\d\d:\d\d(:\d\d)?", time) for time in times), times
    values = page.locator(f"{graph} text.value").all_text_contents()
    assert len(values) >= 2 and all(re.search(unit, value) for value in values), values


def colours(page):
    """A window that is full or refuses has another colour than a healthy one, and a word."""
    expect(row(page, "strict").locator(".badge")).to_have_text("Refusing")
    expect(row(page, "partner").locator(".badge")).to_have_text("Waiting")
    expect(row(page, "uploads").locator(".badge")).to_have_text("Idle")
    fill = "rect => getComputedStyle(rect).fill"
    seen = {row(page, name).locator("rect").evaluate(fill) for name in ("strict", "partner", "uploads")}
    assert len(seen) == 3, seen


def sorting(page):
    names = lambda: page.locator("#limits tr button").all_inner_texts()
    assert names() == ["strict", "partner", "uploads"], f"what needs attention stands first: {names()}"
    page.mouse.move(5, 5)
    for column, first, last in (("Limit", "partner", "uploads"), ("Waiting", "partner", "uploads"), ("Refused /s", "strict", "uploads")):
        heading = page.get_by_role("columnheader", name=column)
        heading.get_by_role("button").click()
        expect(heading).to_have_attribute("aria-sort", "ascending" if column == "Limit" else "descending")
        expect(page.locator("#limits tr").first.get_by_role("button")).to_have_text(first)
    page.get_by_role("columnheader", name="Refused /s").get_by_role("button").click()
    expect(page.locator("#limits tr").last.get_by_role("button")).to_have_text("strict")


def reasons(page):
    choose(page, "strict")
    expect(page.locator("#reasons li")).to_have_count(1)
    expect(page.locator("#reasons li")).to_contain_text("full")
    expect(page.locator("#reasons li small")).to_contain_text("No slot was free, and the limit does not queue requests")
    assert page.url.endswith("#limit=strict"), page.url
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()


def what_if(page):
    """Half of it: what it would have done, in numbers that add up."""
    expect(page.locator("#what-if-note")).to_have_text(re.compile("^Change a value"))
    page.locator("[name=requests]").fill("10")
    expect(page.locator("#what-if-rows tr")).to_have_count(2)
    force, form = page.evaluate(SUMS)
    for requests, sent, refused, waiting, _ in (force, form):
        assert requests == sent + refused + waiting > 0, (force, form)
    assert force[0] == form[0] and form[1] <= force[1], (force, form)


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(**CHROMIUM, timeout=PATIENCE_MS)
    first_state(browser)
    page = opened(browser, viewport={"width": 1200, "height": 900})
    overview(page)
    colours(page)
    sorting(page)
    reasons(page)

    # By keyboard alone: to the limit, and into it.
    page.locator("#find").focus()
    while page.evaluate("document.activeElement.textContent") != "partner":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_be_focused()
    expect(page.locator("#sentence")).to_have_text("20 per 1s; sliding, more requests wait up to 30s")

    # The picture follows what happens.
    expect(page.locator("#window-note")).to_have_text(re.compile("^20 of 20 taken, opens in"))
    expect(page.locator("#slots i")).to_have_count(20)
    expect(page.locator("#callers li").first).to_contain_text("127.0.0.2")
    expect(page.locator("#callers li").nth(1)).to_contain_text("127.0.0.3")
    first, second = (numbers(page.locator("#callers li").nth(at).inner_text())[-1] for at in (0, 1))
    assert first > second, "who fills the queue stands first"
    # The rate is this machine's affair, and its display the page's.
    for true, shown in page.evaluate(RATES):
        assert abs(numbers(shown)[0] - true) <= 0.06 + true / 100, f"{shown} is shown, {true} is right"
    label = page.locator("#rate svg").get_attribute("aria-label")
    assert re.match(r"Requests per second, last 2 minutes: sent now \d", label), label
    for graph, unit in (("#rate", "/s$"), ("#queue", r"^\d+$"), ("#waits", " (ms|s)$"), ("#pushbacks", "/s$")):
        has_axes(page, graph, unit)
    what_if(page)
    is_readable(page)
    page.screenshot(path=f"{folder}/dashboard.png", full_page=True)

    page.locator("[name=requests]").press("Enter")
    expect(page.locator("#outcome")).to_have_text("partner: 10 per 1s")
    expect(row(page, "partner").locator(".rule")).to_have_text("10 per 1s")
    page.get_by_role("button", name="Save to file").click()
    expect(page.locator("#outcome")).to_have_text(re.compile("is saved$"))

    # What cannot be is told as for the file.
    page.locator("[name=per]").fill("soon")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#outcome")).to_contain_text("`per` cannot be \"soon\"")
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    page.locator("#find").fill("no such")
    expect(page.locator("#none")).to_be_visible()
    # A refusal is an answer too, and browsers note it.
    said = [line for line in page.said if "422" not in line]
    assert not said, said
    others = {urlsplit(asked).netloc for asked in page.asked} - {urlsplit(url).netloc, ""}
    assert not others, f"nothing comes from elsewhere, but {others}"

    phone = opened(browser, viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2)
    expect(row(phone, "partner").locator(".badge")).to_have_text("Waiting")
    for name in ("partner", "strict", "uploads"):
        for column in (".badge", ".window span", ".waiting", ".refused"):
            box = row(phone, name).locator(column).bounding_box()
            assert box and 0 <= box["x"] and box["x"] + box["width"] <= 390, f"{column} of {name}: {box}"
    phone.screenshot(path=f"{folder}/dashboard-phone.png")
    choose(phone, "partner")
    expect(phone.locator("#callers li").first).to_be_visible()
    phone.locator("[name=requests]").fill("5")
    expect(phone.locator("#what-if-rows tr")).to_have_count(2)
    wide = phone.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0, f"{wide} pixels are beyond the edge of a phone"
    is_readable(phone)
    phone.screenshot(path=f"{folder}/dashboard-phone-detail.png", full_page=True)
    assert not phone.said, phone.said
    browser.close()
