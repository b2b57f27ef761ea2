"""What tests do with the tagging page, and what it should show."""

import browser
import tagging
from serving import wait_for

from psl_jax.tagging import output_formats
from psl_jax.tagging.events import EventSettings, find_events

LIMITS = {"megabytes": 1.0, "minutes": 0.5}
SETTINGS = EventSettings(threshold=tagging.thresholds(0.6, siren=0.3))


def screen(driver, width):
    """As `browser.resize`; a telephone is touched."""
    browser.resize(driver, width)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 600})


def texts(page, selector):
    return [element.text for element in page.find_elements("css selector", selector)]


def upload(page, *paths):
    page.find_element("id", "file").send_keys("\n".join(map(str, paths)))


def upload_and_wait(page, *paths):
    upload(page, *paths)
    wait_for(lambda: texts(page, "#labels li"))
    wait_for(lambda: len(page.find_elements("css selector", "#files li.done")) == len(paths))


def press(page, *ids):
    for name in ids:
        page.execute_script("document.getElementById(arguments[0]).click()", name)


def set_value(page, name, value, event="input"):
    page.execute_script(
        "const x = document.getElementById(arguments[0]); x.value = arguments[1];"
        "x.dispatchEvent(new Event(arguments[2], {bubbles: true}))",
        name,
        value,
        event,
    )
    settle(page)


def settle(page):
    """Settings take effect with the next frame of the screen."""
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def listed(page):
    """The table's rows: (from, to, class, score)."""
    rows = page.execute_script(
        "return [...document.querySelectorAll('#events tr')].map((r) => "
        "[...r.cells].map((c) => c.firstChild.textContent))"
    )
    return [tuple(row) for row in rows if len(row) == 4]


def expected(tags, threshold, own=None, **settings):
    each = tagging.thresholds(threshold, **(own or {}))
    return find_events(
        tags.frame_scores, EventSettings(each, **settings), tags.labels, tags.seconds
    )


def as_listed(events):
    clocks = (
        (output_formats.format_clock(e.onset, 2), output_formats.format_clock(e.offset, 2))
        for e in events
    )
    return {(*clock, e.label) for clock, e in zip(clocks, events, strict=True)}


def number(page):
    return int(page.find_element("id", "events-title").text.split()[0])
