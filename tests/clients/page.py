"""Looks at the dashboard as a person would: page.py URL FOLDER. Screenshots go to the folder."""

import re
import sys
from urllib.parse import urlsplit

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
    expect(page.locator("#limits tr")).to_have_count(2)
    return page


# Listens beside the page: [rate from the events' own counts, rate that the page shows of the same events].
RATES = """() => new Promise((done) => {
  const events = new EventSource("v1/events");
  const seen = [];
  let old = null;
  events.addEventListener("limits", (event) => {
    const now = JSON.parse(event.data);
    const partner = now.limits.find((limit) => limit.name === "partner");
    // The page has had the same event as soon as it shows its moment.
    const shown = () => {
      if (before.at < now.at) return setTimeout(shown, 5);
      if (old && before.at === now.at) {
        const row = [...document.querySelectorAll("#limits tr")].find((line) => line.textContent.startsWith("partner"));
        seen.push([(partner.permits - old.permits) / ((now.at - old.at) / 1000), row.cells[2].textContent]);
      }
      old = { at: now.at, permits: partner.permits };
      if (seen.length < 3) return;
      events.close();
      done(seen);
    };
    shown();
  });
})"""


def rates_are_true(page):
    """How fast it goes is this machine's affair; that the page shows it, is the page's."""
    for true, shown in page.evaluate(RATES):
        assert abs(numbers(shown)[0] - true) <= 0.1 + true / 100, f"{shown} is shown, {true} is right"


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(**CHROMIUM, timeout=PATIENCE_MS)
    page = opened(browser, viewport={"width": 1200, "height": 900})

    # Lines of the file that do less than they seem to.
    expect(page.locator("#warnings-title")).to_have_text("1 warning about the file")
    expect(page.locator("#warned li")).to_contain_text("this limit counts no https requests to any host")
    expect(page.locator("#warned code")).to_have_text("proxy.toml:13:24")

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
    rates_are_true(page)
    label = page.locator("#rate").get_attribute("aria-label")
    assert label.startswith("Requests per second") and numbers(label), label
    drawn = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(one => one)"
    for chart in page.locator("canvas").all():
        assert chart.evaluate(drawn), "it is empty"

    # Half of it: what it would have done, and what it does.
    page.locator("[name=requests]").fill("10")
    expect(page.locator("#preview")).to_have_text(re.compile(r"^Of about [\d,]+ requests .* would have been sent"))
    page.screenshot(path=f"{folder}/dashboard.png", full_page=True)
    page.keyboard.press("Enter")
    expect(page.locator("#outcome")).to_have_text("partner: 10 per 1s")
    expect(page.locator("#limits tr", has_text="partner").locator("td").nth(1)).to_have_text("10 per 1s")
    rates_are_true(page)
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
    phone.get_by_role("button", name="partner").click()
    expect(phone.locator("#callers li").first).to_be_visible()
    phone.wait_for_timeout(1500)
    wide = phone.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0, f"{wide} pixels are beyond the edge of a phone"
    phone.screenshot(path=f"{folder}/dashboard-phone.png")
    assert not phone.said, phone.said
    browser.close()
