"""Charts and tables of the paper's experiments: nothing overlaps, what was measured can be read, bad input is said."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from benchmarks.paper import plot, report, scales
from benchmarks.paper.experiment import EXPERIMENTS
from benchmarks.paper.lettering import Box, box_of
from benchmarks.paper.result import Axis, Chart, Claim, Mark, Point, Result, Row, Series, between, significant
from benchmarks.runner import ROOT

BYTES = Axis("size (bytes)", log=True, values="bytes")
MS = Axis("latency (ms)", log=True)
SECONDS = Axis("time (s)")
RATE = Axis("tasks/s")


def chart(series: list[Series], x: Axis = BYTES, y: Axis = MS, marks: list[Mark] | None = None) -> Chart:
    return Chart("sample", "Sample <&> chart", x, y, series, marks or [])


def line(title: str, points: dict[float, list[float]], reference: bool = False) -> Series:
    return Series(title, [Point(x, values) for x, values in points.items()], reference)


SIZES = {1e3: [0.5, 0.6, 0.4], 1e6: [1.0, 1.1, 5.0], 5e7: [40.0, 41.0, 39.0], 1e8: [90.0, 80.0, 100.0]}
CURVE = {float(second): [100.0 + second % 7] for second in range(60)}
CHARTS = {
    "one series": chart([line("a", SIZES)]),
    "many names": chart([line(f"a rather long name of series number {number}", SIZES) for number in range(7)]),
    "over time": chart(
        [line("first runs", CURVE), line("runs again", CURVE, reference=True)],
        SECONDS,
        RATE,
        [Mark(5.0, "a node leaves"), Mark(5.2, "another node leaves"), Mark(59.0, "a node comes back")],
    ),
    "one point": chart([line("a", {1.0: [3.0]})], SECONDS, RATE),
    "equal values": chart([line("a", {1.0: [3.0], 2.0: [3.0]})], SECONDS, MS),
    "only zeros": chart([line("a", {1.0: [0.0], 2.0: [0.0]})], SECONDS, RATE),
    "large numbers": chart([line("a", {1.0: [1e7], 4.0: [4.1e7]})], SECONDS, RATE),
}


def words_of(picture: str) -> list[tuple[str, Box]]:
    """Every line of text with the room it takes."""
    found = []
    for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text"):
        text, size = element.text or "", float(element.attrib["font-size"])
        x, y = float(element.attrib["x"]), float(element.attrib["y"])
        found.append((text, box_of(text, x, y, size, element.attrib["text-anchor"])))
    return found


@pytest.mark.parametrize("name", CHARTS)
def test_no_text_overlaps_another_or_leaves_the_picture(name):
    picture = plot.svg(CHARTS[name])
    _, _, width, height = map(float, ElementTree.fromstring(picture).attrib["viewBox"].split())
    words = words_of(picture)
    assert len(words) > 4
    for number, (text, box) in enumerate(words):
        assert box.left >= 0 and box.top >= 0 and box.right <= width and box.bottom <= height, text
        for other, elsewhere in words[:number]:
            assert not box.touches(elsewhere), f"{text!r} and {other!r}"


@pytest.mark.parametrize("name", CHARTS)
def test_titles_legend_and_marks_are_all_there(name):
    given = CHARTS[name]
    shown = [text for text, _ in words_of(plot.svg(given))]
    expected = [given.title, given.x.title, given.y.title, *(each.title for each in given.series)]
    assert set(expected + [mark.text for mark in given.marks]) <= set(shown)


def test_every_point_tells_its_value_and_its_spread():
    picture = plot.svg(CHARTS["one series"])
    said = [element.text for element in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}title")]
    assert "a, 1 MB: 1.1 (1 to 5 in 3 repetitions)" in said
    assert "a, 100 MB: 90 (80 to 100 in 3 repetitions)" in said


def test_a_point_lies_where_its_axis_says():
    scale = scales.Scale(Axis("x", log=True), 1.0, 100.0, 0.0, 200.0)
    assert [scale.place(value) for value in (1.0, 10.0, 100.0)] == [0.0, 100.0, 200.0]
    circles = re.findall(r'<circle class="s0 each" cx="([\d.]+)" cy="([\d.]+)"', plot.svg(CHARTS["one series"]))
    by_x = [float(y) for _, y in circles[:3]]
    assert by_x[1] < by_x[0] < by_x[2], "higher values lie higher"


def test_light_and_dark_have_a_colour_each_for_page_text_and_every_series():
    picture = plot.svg(CHARTS["many names"])
    light, _, dark = picture.partition("prefers-color-scheme:dark")
    for name in (".page{", ".ink{", ".quiet{", ".rule{", *(f".s{number}{{" for number in range(len(plot.COLOURS)))):
        assert name in light and name in dark


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (chart([]), "has no series"),
        (chart([line("a", {})]), "nothing to draw"),
        (chart([line("a", {1.0: [0.0]})]), "logarithmic and cannot show 0"),
        (chart([line("a", {1.0: [float("nan")]})], SECONDS, RATE), "not finite"),
    ],
)
def test_what_cannot_be_drawn_is_said(bad, words):
    with pytest.raises(ValueError, match=words):
        plot.svg(bad)


@pytest.mark.parametrize(
    ("value", "values", "text"),
    [
        (1e3, "bytes", "1 KB"), (2.56e8, "bytes", "256 MB"), (0, "bytes", "0"), (512, "bytes", "512 B"),
        (0.5, "number", "0.5"), (2_500, "number", "2,500"), (50_000, "number", "50 k"), (2e6, "number", "2 M"),
    ],
)  # fmt: skip
def test_ticks_are_written_in_units(value, values, text):
    assert scales.written(value, values) == text


def test_a_linear_axis_has_round_ticks_within_its_bounds():
    for high in (0.07, 1.0, 3.7, 99.0, 12_345.0):
        found = scales.ticks(RATE, 0.0, high)
        assert 3 <= len(found) <= 8 and found[0] == 0 and found[-1] <= high * 1.001


def test_results_survive_their_way_through_a_file():
    result = Result([CHARTS["over time"]], [Row("a", "1", "2")], [Claim("b", "c", False)])
    assert Result.from_json(result.to_json()) == result


def test_a_section_has_the_numbers_and_says_what_does_not_hold():
    result = Result(
        [CHARTS["one series"]],
        [Row("throughput", "15 GB/s", "11 GB/s")],
        [Claim("grows", "2 ×", True), Claim("is flat", "9 ×", False)],
    )
    facts = {"date": "d", "version": "v", "seconds": 3, "load_before": 1, "load_after": 2, "quick": False}
    text = report.section({**facts, **result.to_json()}, "paper")
    assert "![Sample <&> chart](paper/sample.svg)" in text
    assert "| throughput | 15 GB/s | 11 GB/s |" in text
    assert "| grows | 2 × | holds |" in text and "| is flat | 9 × | **does not hold** |" in text
    assert "quick" not in text
    assert "no measurement" in report.section({**facts, "quick": True, **result.to_json()}, "paper")


def test_only_the_part_between_its_marks_is_exchanged():
    begin, end = report.marks("locality")
    page = f"before\n{begin}\nold\n{end}\nafter\n"
    assert report.replace(page, "locality", "new") == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    with pytest.raises(ValueError, match="scaling"):
        report.replace(page, "scaling", "new")


def test_the_page_has_a_place_and_the_words_same_and_different_for_every_experiment():
    page = (ROOT / "docs/paper.md").read_text()
    for name in ("machine", *EXPERIMENTS):
        begin, end = report.marks(name)
        assert page.count(begin) == page.count(end) == 1
    for name, experiment in EXPERIMENTS.items():
        section = page.partition(report.marks(name)[0])[0].rpartition("\n## ")[2]
        assert f"({experiment.place})" in section, name
        assert "**Same**" in section and "**Different**" in section, name


@pytest.mark.parametrize("picture", sorted((ROOT / "docs/paper").glob("*.svg")), ids=lambda path: path.stem)
def test_the_pictures_of_the_page_are_valid_and_their_words_apart(picture):
    words = words_of(picture.read_text())
    for number, (text, box) in enumerate(words):
        assert not [other for other, elsewhere in words[:number] if box.touches(elsewhere)], text


def test_numbers_are_written_shortly():
    assert [significant(value) for value in (0.01234, 12.345, 999, 1234.5, 2e6)] == [
        "0.0123", "12.3", "999", "1,230", "2,000,000",
    ]  # fmt: skip
    assert between([1.0, 3.0, 2.0], " ms") == "2 ms (1 – 3)" and between([2.0]) == "2"
