"""The page and the closing lines: the same figures, nothing from outside, nothing unescaped."""

import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from didact.engine.metrics import Metrics
from didact.errors import DataProblem
from didact.run import plots, report
from didact.run.report import (
    Evaluation,
    RunSummary,
    Sample,
    StageSummary,
    closing,
    figure,
    page,
    row,
    size,
    table,
    write_report,
)

VOID = {"meta", "link", "br", "hr", "img"}


class Page(HTMLParser):
    """Checks that every element is closed, and remembers tags, ids, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes, self.words = [], [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def metrics(path: Path, steps=200, **more):
    with Metrics(path) as log:
        for step in range(1, steps + 1):
            log.write(
                step,
                loss=math.nan if step == 7 else 9 / step + 2,
                grad_norm=1 + 1 / step,
                learning_rate=1e-3 * step / steps,
                trained_tokens=1000 * step,
                **({"held_out": 9 / step + 2.5} if step % 50 == 0 else {}),
                **more,
            )
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("run")
    return RunSummary(
        name="helper & co",
        recipe_yaml="name: helper\nbase: <smollm2>\n",
        stages=[
            StageSummary(
                "pretrain",
                "pretrain",
                842.0,
                1_023_488,
                1.912,
                {"trained tokens": 1_023_488, "windowed": 37},
                metrics(tmp_path / "pretrain.jsonl"),
                ["step 7: loss is nan; the step is skipped"],
                share=0.412,
                memory=3_512_000_000,
            ),
            StageSummary("finetune", "assistant", 212, 188_200, 0.48, {}, metrics(tmp_path / "b.jsonl", 5)),
            StageSummary("index", "index", 3, 0, 0.001, energy_source="measured (RAPL)"),
        ],
        evaluations=[
            Evaluation("held-out documents", 1.214, 0.981, "bits per byte"),
            Evaluation("right answers", 0.12, 0.06, "share", "higher"),
        ],
        samples=[
            Sample("<script>alert(1)</script>?", "no\x1b[2J", "line one\n  line two"),
            Sample("second", "", "b"),
            Sample("third", "c", "d"),
        ],
        facts={"torch": "2.13.0", "recipe hash": "3f1a" * 16},
    )


@pytest.fixture(scope="module")
def html(run):
    return page(run)


def printed(renderable, width=100):
    stream = io.StringIO()
    Console(file=stream, width=width).print(renderable)
    return stream.getvalue()


def test_the_page_holds_everything(run, tmp_path):
    path = write_report(tmp_path, run)
    assert path == tmp_path / "report.html"
    text = Page(path.read_text(encoding="utf-8")).text
    for words in (
        "helper & co",
        "pretrain → assistant → index",
        "1.21M tokens in 17m 37s, ~2.39 Wh (estimate)",
        "held-out documents bits per byte 1.214 0.981 \u221219.2 % better",
        "right answers share 0.120 0.060 \u221250.0 % worse",
        "<script>alert(1)</script>? before no�[2J after line one line two",
        "second before (nothing) after b",
        "third before c after d",
        "trained tokens 1,023,488 windowed 37",
        "step 7: loss is nan; the step is skipped",
        "No alarm was raised.",
        "pretrain 14m 02s 1.02M 1,216 41% 3.51 GB ~1.91 Wh",
        "index 3s \u2013 \u2013 \u2013 \u2013 0.001 Wh",
        "Energy: estimate; measured (RAPL).",
        "name: helper base: <smollm2>",
        "recipe hash " + "3f1a" * 16,
    ):
        assert words in text


def test_the_page_asks_for_nothing_outside_itself(html):
    assert not re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?(?!#|data:)[^"'\s)]""", html)
    assert "@import" not in html
    outside = set(re.findall(r"https?://[^\s\"'<]*", html)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not outside
    assert "default-src 'none'" in html


def test_no_script_and_no_control_character_reaches_the_page(html):
    assert "script" not in Page(html).tags
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", html)


@pytest.mark.parametrize("where", ["name", "recipe_yaml"])
def test_every_field_is_escaped(where):
    assert "<b>" not in page(RunSummary(**{"name": "n", "recipe_yaml": "r", where: "<b>bold</b>"}))


def test_stage_and_fact_fields_are_escaped():
    evil = "<b>\"'&"
    html = page(
        RunSummary(
            evil,
            evil,
            [StageSummary(evil, evil + "2", 1, 1, 1, {evil: 1}, None, [evil], energy_source=evil)],
            [Evaluation(evil, 1, 2, evil)],
            [Sample(evil, evil, evil)],
            {evil: evil},
        )
    )
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert "b" not in Page(html).tags


def test_charts_are_named_for_who_cannot_see_them_and_ids_are_unique(html):
    parsed = Page(html)
    assert parsed.tags.count("svg") == 2 * 4  # two stages: loss wide and narrow, learning rate, gradient norm
    labels = [value for name, value in parsed.attributes if name == "aria-label"]
    assert "Loss: from 11 at the start to 2.045 at the end" in labels
    assert "gradient norm: from 2 at the start to 1.005 at the end" in labels
    assert len(parsed.ids) == len(set(parsed.ids))
    targets = {
        value[1:] for name, value in parsed.attributes if name in ("xlink:href", "href") and value.startswith("#")
    }
    assert targets <= set(parsed.ids)


def test_charts_say_their_units_and_take_their_colours_from_the_page(html):
    for words in ("trained tokens", "loss (nats per trained token)", "learning rate", "gradient norm"):
        assert words in Page(html).text
    svg = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert {"var(--first)", "var(--second)", "var(--line)", "var(--quiet)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert not re.findall(r"#[0-9a-f]{6}\b(?!-)", svg)


def test_held_out_loss_has_a_key_only_where_it_was_measured(tmp_path):
    with_it = StageSummary("pretrain", "a", 1, 1, 1, {}, metrics(tmp_path / "a.jsonl", 100))
    without = StageSummary("pretrain", "b", 1, 1, 1, {}, metrics(tmp_path / "b.jsonl", 5))
    assert "held-out loss" in page(RunSummary("n", "", [with_it]))
    assert "held-out loss" not in page(RunSummary("n", "", [without]))


def test_light_dark_phone_and_print_have_their_rules(html):
    for rule in ("screen and (prefers-color-scheme: dark)", "(max-width: 640px)", "@media print", "width=device-width"):
        assert rule in html


def test_the_same_run_gives_the_same_page(run, html):
    assert page(run) == html


def test_a_run_of_nothing_is_still_a_page(tmp_path):
    empty = tmp_path / "metrics.jsonl"
    empty.write_bytes(b"")
    html = page(RunSummary("bare", "name: bare\n", [StageSummary("index", "index", 0, 0, 0, {}, empty)]))
    assert "Before and after" not in html
    assert "<svg" not in html
    assert "0 tokens in 0s" in Page(html).text


def test_one_step_is_a_chart(tmp_path):
    stage = StageSummary("pretrain", "pretrain", 1, 1, 1, {}, metrics(tmp_path / "one.jsonl", 1))
    assert page(RunSummary("one", "", [stage])).count("<svg") == 4


def test_metrics_without_tokens_are_drawn_over_steps(tmp_path):
    with Metrics(tmp_path / "metrics.jsonl") as log:
        for step in range(20):
            log.write(step, loss=1.0 * step)
    drawn = report.charts(StageSummary("train", "train", 1, 1, 1, {}, log.path), "s")
    assert "step" in drawn["wide"]
    assert "trained tokens" not in drawn["wide"]
    assert set(drawn) == {"wide", "narrow"}


def test_a_failed_write_leaves_the_old_report(run, tmp_path, monkeypatch):
    path = write_report(tmp_path, run)
    old = path.read_bytes()
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("nonsense\n")
    with pytest.raises(DataProblem, match=r"damaged\.jsonl:1"):
        write_report(tmp_path, RunSummary("x", "", [StageSummary("a", "a", 1, 1, 1, {}, damaged)]))
    assert path.read_bytes() == old


@pytest.mark.parametrize(
    ("evaluation", "before", "after", "change", "verdict"),
    [
        (Evaluation("x", 2.0, 1.0, "u"), "2.000", "1.000", "\u221250.0 %", "better"),
        (Evaluation("x", 1.0, 2.0, "u"), "1.000", "2.000", "+100.0 %", "worse"),
        (Evaluation("x", 1.0, 2.0, "u", "higher"), "1.000", "2.000", "+100.0 %", "better"),
        (Evaluation("x", 1.0, 1.0, "u"), "1.000", "1.000", "0.0 %", "same"),
        (Evaluation("x", None, 1.0, "u"), "\u2013", "1.000", "\u2013", ""),
        (Evaluation("x", 0.0, 1.0, "u", "higher"), "0.000", "1.000", "\u2013", "better"),
        (Evaluation("x", -2.0, -1.0, "u", "higher"), "\u22122.000", "\u22121.000", "+50.0 %", "better"),
        (Evaluation("x", math.nan, 1.0, "u"), "not a number", "1.000", "\u2013", ""),
        (Evaluation("x", 1.0, math.inf, "u"), "1.000", "infinite", "\u2013", ""),
    ],
)
def test_change_and_its_direction(evaluation, before, after, change, verdict):
    got = row(evaluation)
    assert (got.before, got.after, got.change, got.verdict) == (before, after, change, verdict)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (1.21449, "1.214"),
        (0.0001234, "0.000123"),
        (123.456, "123.5"),
        (1e6, "1,000,000"),
        (-3.0, "\u22123.000"),
    ],
)
def test_figures(value, text):
    assert figure(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (188_200, "188k"), (999_700, "1M"), (1_234_567, "1.23M"), (2e9, "2G")],
)
def test_sizes(count, text):
    assert size(count) == text


def test_the_terminals_table_has_the_pages_figures(run):
    text = " ".join(printed(table(run.evaluations)).split())
    assert "held-out documents bits per byte 1.214 0.981 \u221219.2 % better" in text
    assert "right answers share 0.120 0.060 \u221250.0 % worse" in text


def test_the_closing_lines(run):
    text = printed(closing(run, ["didact chat runs/helper", "didact eval runs/helper", "didact export runs/helper"]))
    assert "1.21M tokens in 17m 37s, ~2.39 Wh (estimate)" in text
    assert "\u221219.2 % better" in text
    assert "second" in text
    assert "third" not in text  # two answers are enough here
    assert "\x1b" not in text
    assert text.rstrip().endswith("didact chat runs/helper\n  didact eval runs/helper\n  didact export runs/helper")


def test_a_long_answer_is_cut_on_the_terminal_and_whole_on_the_page():
    run = RunSummary("n", "", samples=[Sample("q", "a", "word " * 500 + "end")])
    assert "end" not in printed(closing(run, []))
    assert "…" in printed(closing(run, []))
    assert "word end" in page(run)


def test_a_model_that_did_not_exist_before_has_no_answer_from_then():
    run = RunSummary("n", "", samples=[Sample("q", None, "a"), Sample("r", "", "b")])
    assert "q after a r before (nothing) after b" in Page(page(run)).text
    assert "q after a r before (nothing) after b" in " ".join(printed(closing(run, [])).split())


def test_a_measured_run_is_not_called_an_estimate():
    run = RunSummary("n", "", [StageSummary("a", "a", 60, 10, 2.0, energy_source="measured (RAPL)")])
    assert "10 tokens in 1m 00s, 2.00 Wh\n" in printed(closing(run, []))


def test_smoothing_keeps_a_line_and_passes_over_gaps():
    y = np.arange(300.0)
    inside = plots.smooth(y)[10:-10]
    np.testing.assert_allclose(inside, y[10:-10])
    y[100] = np.nan
    assert np.isfinite(plots.smooth(y)).all()
    assert np.isnan(plots.smooth(np.full(5, np.nan))).all()


def test_thinning_keeps_every_spike_and_both_ends():
    y = np.zeros(10_000)
    y[[1234, 7777]] = 5.0, -5.0
    thin = plots.thin(plots.Series(np.arange(10_000.0), y))
    assert len(thin.x) <= plots.POINTS + 2
    assert {0, 1234, 7777, 9999} <= set(thin.x)
    assert (np.diff(thin.x) > 0).all()
