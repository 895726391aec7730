"""The HTML report in Chromium, where there is one: nothing thrown, nothing asked for, everything drawn."""

import json

import pytest

from studies.report import page
from studies.report.runs import labels
from tests.support.browser import Browser, chromium
from tests.support.runs.run_folders import completions, conversation, curve, evaluation, group, picture, training

pytestmark = pytest.mark.skipif(chromium() is None, reason="no chromium here")
EVIL = "</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for seed in (0, 1):
        rows = curve([0.1 * n + seed for n in range(20)])
        rows += [
            {"step": n, "score/mean": n % 7, "rewards/gold/mean": n % 5, "score/shuffled_won": 0.4 + n / 40}
            for n in range(21)
        ]
        run = training(folder / f"r1-seed{seed}", rows, seed=seed)
        shown = {"image_file": str(picture(folder / "p.png")), "task": "grounding", "answer": "(100,200),(500,900)"}
        said = [f"<|box_start|>(100,{n}),(500,900)<|box_end|>" for n in range(6)]
        completions(run, 1, [row | shown for row in group(EVIL, [*said, EVIL])])
    path = folder / "r.html"
    path.write_text(page.html(page.Asked(labels.curves([str(folder)], True))), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_it_draws_everything_and_nothing_goes_wrong(browser, file, width, dark):
    opened = browser.open(file, width, 844, dark)
    opened.settle()
    opened.evaluate("document.getElementById('samples').scrollIntoView(); new Promise((done) => setTimeout(done, 300))")
    opened.settle()
    assert opened.evaluate("[...view.charts].every((chart) => chart.picture.querySelector('path.line'))")
    assert opened.evaluate("document.querySelectorAll('.band').length") > 0
    assert opened.evaluate("document.querySelectorAll('.unhealthy').length") == 1
    assert opened.evaluate("document.querySelectorAll('article.card').length") == 2
    assert opened.evaluate("[...document.images].every((image) => image.naturalWidth === 40)")
    assert opened.evaluate("document.querySelector('.card .prompt').textContent") == EVIL
    assert opened.evaluate("document.title") == "r1"
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.faults == [] and opened.requests == []


def test_keys_move_along_a_chart_and_enlarge_it(browser, file):
    opened = browser.open(file)
    opened.settle()
    press = "chart.element.dispatchEvent(new KeyboardEvent('keydown', { key: '%s', bubbles: true }));"
    opened.evaluate(
        "var chart = [...view.charts].find((one) => one.panel.title === 'Reward'); chart.element.focus();"
        + press % "Home"
    )
    assert opened.evaluate("chart.readout.textContent").startswith("step 1r1 ")
    opened.evaluate(press % "ArrowRight")
    assert opened.evaluate("chart.readout.querySelector('.step').textContent") == "step 2"
    opened.evaluate(press % "Enter")
    assert opened.evaluate("document.querySelector('dialog').open && view.charts.size") == opened.evaluate(
        "document.querySelectorAll('figure').length"
    )
    opened.evaluate("document.querySelector('dialog .close').click(); new Promise((done) => setTimeout(done, 50))")
    assert opened.evaluate("document.activeElement === chart.element")


def test_hiding_a_label_takes_its_lines_away(browser, file):
    opened = browser.open(file)
    opened.settle()
    opened.evaluate("document.querySelector('.tools button').click()")
    assert opened.evaluate("document.querySelectorAll('path.line').length") == 0
    opened.evaluate("document.querySelector('.tools button').click()")
    assert opened.evaluate("document.querySelectorAll('path.line').length") > 0


def test_filters_choose_rows_and_a_click_its_boxes(browser, file):
    opened = browser.open(file)
    opened.settle()
    opened.evaluate("document.getElementById('samples').scrollIntoView(); new Promise((done) => setTimeout(done, 300))")
    opened.evaluate(
        "var run = document.querySelector('.filters select');"
        "run.value = 'r1-seed1'; run.dispatchEvent(new Event('change'))"
    )
    assert opened.evaluate("document.querySelectorAll('.card').length") == 1
    before = opened.evaluate("document.querySelector('.card .stated').getAttribute('points')")
    opened.evaluate("document.querySelectorAll('.card .said li')[1].click()")
    assert before == "4 0 20 0 20 18 4 18"
    assert (
        opened.evaluate("document.querySelector('.card .stated').getAttribute('points')") == "4 0.02 20 0.02 20 18 4 18"
    )
    opened.evaluate(
        "var text = document.querySelector('input[type=search]');"
        "text.value = 'no such text'; text.dispatchEvent(new Event('input'))"
    )
    assert opened.evaluate("document.querySelectorAll('.card').length") == 0


@pytest.mark.parametrize("width", [1280, 390])
def test_a_chain_has_its_regions_on_the_picture_its_crops_and_its_turns(browser, tmp_path, width):
    run, path = training(tmp_path / "runs/a", curve([1.0])), picture(tmp_path / "p.png", size=(400, 200))
    turns, crops = conversation([100, 100, 300, 200])
    evil = [turns[0] | {"content": EVIL}, *turns[1:]]
    said = {"prompt": "user: <image>Q", "completion": "…", "image_file": str(path), "task": "vqa", "answer": "red"}
    two = [*crops, crops[0] | {"image": 1}]
    rows = [said | {"turns": json.dumps(t), "crops": json.dumps(c)} for t, c in ((turns, two), (evil, []))]
    completions(run, 1, [row | {"advantage": 1.0 - n} for n, row in enumerate(rows)])
    file = tmp_path / "r.html"
    file.write_text(page.html(page.Asked(labels.curves([str(tmp_path / "runs")], False))), encoding="utf-8")
    opened = browser.open(file, width)
    opened.settle()
    opened.evaluate("document.getElementById('samples').scrollIntoView(); new Promise((done) => setTimeout(done, 300))")
    opened.settle()
    each = "[...document.querySelectorAll('%s')].map((one) => one.%s)"
    assert opened.evaluate(each % (".card .zoomed", "getAttribute('points')")) == ["100 100 300 100 300 200 100 200"]
    assert opened.evaluate(each % (".card svg text", "textContent")) == ["1"]
    assert opened.evaluate(each % (".cut", "textContent")) == [
        "1 100, 100, 300, 200", "no picture2 picture 2: 100, 100, 300, 200"
    ]  # fmt: skip
    assert opened.evaluate(each % (".cut img", "naturalWidth")) == [200]
    assert opened.evaluate(each % ("details .turns", "parentElement.open")) == [True, False]  # of the best alone
    found = opened.evaluate(each % (".turns li", "textContent"))
    assert found[0] == f"model{turns[0]['content']}" and found[3] == f"model{EVIL}"
    assert found[1] == "tool12This is that region. Go on." and found[4] == f"tool{turns[1]['content']}"  # no crop
    opened.evaluate("document.querySelectorAll('.card .said > li')[1].click()")
    assert opened.evaluate("document.querySelectorAll('.card .said > li').length") == 2
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.faults == [] and opened.requests == []


def test_it_prints(browser, file, tmp_path, monkeypatch):
    """With what lies off the screen: samples, and the runs where they are folded."""
    monkeypatch.setattr(page, "LISTED", 1)
    folded = tmp_path / "folded.html"
    folded.write_text(page.html(page.Asked(labels.curves([str(file.parent)], True))), encoding="utf-8")
    opened = browser.open(folded, height=200)
    opened.settle()
    cards, runs = "document.querySelectorAll('article.card').length", "document.querySelector('#runs details').open"
    assert (opened.evaluate(cards), opened.evaluate(runs)) == (0, False)
    opened.pdf(tmp_path / "r.pdf")
    assert (opened.evaluate(cards), opened.evaluate(runs)) == (2, True)
    opened.evaluate("document.getElementById('samples').scrollIntoView(); new Promise((done) => setTimeout(done, 300))")
    assert opened.evaluate(cards) == 2  # not once more
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF") and opened.faults == []


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_cut_and_runs_that_coincide_stay_visible(browser, tmp_path, width):
    """Tables scroll inside, figures shrink; of three equal runs each colour is seen."""
    for rate in (1, 2, 3):
        rows = [{"step": n, "reward": 0.1 * n, "score/shuffled_won": 0.3} for n in range(20)]
        training(tmp_path / f"run{rate}", rows, training={"learning_rate": rate, "long_" * 30: rate})
        evaluation(tmp_path / f"eval{rate}", {"vqa/exact": 0.5, "grounding/miou": 0.5, "a/b": 0.2, "c/d": 0.2})
    asked = [f"label_{rate}={tmp_path}/run{rate},{tmp_path}/eval{rate}" for rate in (1, 2, 3)]
    file = tmp_path / "r.html"
    file.write_text(page.html(page.Asked(labels.curves(asked, True))), encoding="utf-8")
    opened = browser.open(file, width)
    opened.settle()
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('main *')].filter((one) => !one.closest('.scroll, svg')
      && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"""
    assert opened.evaluate(outside) == []
    sheet = opened.evaluate(
        "[document.querySelector('.sheet').currentSrc, document.querySelector('picture source').srcset]"
    )
    assert (sheet[0] == sheet[1]) is (width == 390)
    dashes = "[...document.querySelectorAll('path.line')].map((one) => one.getAttribute('stroke-dasharray'))"
    assert opened.evaluate(dashes) == [None, "6 6", "6 12"]
    assert opened.faults == []
