"""The page of a suite in a headless browser."""

import browser
import pytest

from psl_jax.reporting import suite_page
from psl_jax.runtime import files

NASTY = 'a "quoted" label'


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.opened(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_a_table_of_all_columns_fits_a_screen(driver, tmp_path):
    row = {"label": "weak", "segment_seconds": 10, "mAP": 0.3412, "mAP_spread": 0.0123}
    row |= {"gain_spread": 0.0101, "over_reference": {"low": -0.0112, "high": 0.0213}}
    row |= {"d_prime": 2.34, "AUC": 0.912, "lwlrap": 0.512, "mAP_at_3": 0.612, "num_clips": 18_229}
    row |= {"clip_ids_sha256": "ab" * 32}
    row |= {"train_clips": 1_912_024, "train_segments": 9_560_120, "steps": 150_000}
    names = ("teacher", "weak", "psl2s")
    results = {"experiments": [row | {"name": name, "seconds": 112_320.0} for name in names]}
    results |= {"paper": dict.fromkeys(names, 0.27), "paper_d_prime": dict.fromkeys(names, 2.19)}
    browser.resize(driver, 1440)
    driver.get(suite_page.write(tmp_path, results).as_uri())
    header = driver.find_elements("css selector", ".wide th")
    assert len(header) == 17 and header[-1].text == "time"
    table = driver.find_element("css selector", ".wide .scroll")
    run = driver.execute_script
    assert run("return arguments[0].scrollWidth - arguments[0].clientWidth", table) == 0
    assert run("return document.documentElement.scrollWidth") <= 1440


def test_the_page_on_a_phone(driver, tmp_path):
    """Nothing scrolls sideways, classes sort and filter by the keyboard alone."""
    header = ("class", "AP", "AUC", "num_positives")
    aps = {"weak": (0.2, 0.5, 0.4), "psl2s": (0.9, 0.6, 0.3)}
    for name, values in aps.items():
        labels = (NASTY, "bell <b>", "z" * 60)
        rows = [(label, ap, 0.5, 3) for label, ap in zip(labels, values, strict=True)]
        files.write_csv(tmp_path / name / "per_class.csv", header, rows)
    results = {"experiments": [{"name": n, "mAP": v[0]} for n, v in aps.items()]}
    path = suite_page.write(tmp_path, results)
    assert path.stat().st_size < 20e6
    browser.resize(driver, 375)
    driver.get(path.as_uri())
    run = driver.execute_script
    assert run("return document.documentElement.scrollWidth") == 375

    def shown():
        return run(
            "return [...document.querySelectorAll('#classes tbody tr:not([hidden])')]"
            ".map((row) => row.cells[0].textContent)"
        )

    assert shown() == [NASTY, "bell <b>", "z" * 60]
    header = driver.find_element("css selector", "#classes th:nth-child(4) button")
    run("arguments[0].focus()", header)
    driver.switch_to.active_element.send_keys("\ue007")
    assert shown() == ["bell <b>", "z" * 60, NASTY]  # by the weak AP, falling
    driver.find_element("css selector", "input[data-table=classes]").send_keys("BELL")
    assert shown() == ["bell <b>"]
    assert driver.get_log("browser") == []
