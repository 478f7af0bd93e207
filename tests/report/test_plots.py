"""Plots: what is drawn where, labels, colours, and that nothing lies over anything else."""

from __future__ import annotations

from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pytest
from hostile import SHOWN
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import is_math_text
from matplotlib.collections import LineCollection
from matplotlib.colors import same_color
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from rearec.report.floors import FLOORS
from rearec.report.plots import METHOD_COLORS, draw_bars, draw_heatmap, draw_lines, draw_parts, figure, panels
from rearec.report.style import colors


def boxes(figure: Figure) -> list[Bbox]:
    """Where the axes with all their labels, the legend and the title lie, after the layout is done."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    parts = [*figure.axes, *figure.legends]
    return [part.get_tightbbox(canvas.get_renderer()) for part in parts if part.get_visible()]


def assert_nothing_overlaps(figure: Figure) -> None:
    found = boxes(figure)
    width, height = figure.get_size_inches() * figure.dpi
    for box in found:
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
    for first, second in combinations(found, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        down = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(across, down) <= 1


def assert_numbers_stand_apart(figure: Figure) -> None:
    """The numbers above bars lie over no other number and inside the axes."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        numbers = [text.get_window_extent(renderer) for text in axes.texts if text.get_text()]
        assert not any(first.overlaps(second) for first, second in combinations(numbers, 2))
        assert all(box.y1 < axes.title.get_window_extent(renderer).y0 for box in numbers if axes.get_title())


def tick_texts_overlap(figure: Figure) -> bool:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for axes in figure.axes:
        texts = [tick.get_window_extent() for tick in axes.get_xticklabels() if tick.get_text()]
        if any(first.overlaps(second) for first, second in pairwise(texts)):
            return True
    return False


def test_lines_have_labels_method_colours_error_bars_and_levels() -> None:
    series = {"erl": [(1, 0.2, 0.01), (0, 0.1, (0.02, 0.03))], "another": [(0, 0.3, None)]}
    levels = {"base": 0.15, "erl, its answer": 0.18, "popularity (floor)": 0.05}
    chart = figure(draw_lines, series, xlabel="step", ylabel="NDCG@20", title="T", levels=levels)
    (axes,) = chart.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("step", "NDCG@20", "T")
    (erl,) = axes.containers
    assert np.asarray(erl.lines[0].get_xydata()).tolist() == [[0, 0.1], [1, 0.2]]
    (caps,) = erl.lines[2]
    assert np.stack(caps.get_segments())[:, :, 1] == pytest.approx(np.array([[0.08, 0.13], [0.19, 0.21]]))
    assert same_color(erl.lines[0].get_color(), METHOD_COLORS["erl"])
    drawn = {line.get_label(): line for line in axes.lines}
    assert not any(same_color(drawn["another"].get_color(), color) for color in METHOD_COLORS.values())
    assert [drawn[name].get_ydata() for name in levels] == [[y, y] for y in levels.values()]
    assert same_color(drawn["base"].get_color(), METHOD_COLORS["base"])
    assert same_color(drawn["erl, its answer"].get_color(), METHOD_COLORS["erl"])
    assert drawn["base"].get_linestyle() == "--" and same_color(drawn["popularity (floor)"].get_color(), "0.1")
    assert sorted(text.get_text() for text in chart.legends[0].get_texts()) == sorted([*series, *levels])


def test_a_legend_shows_error_bars_where_there_are_some_only() -> None:
    chart = figure(draw_lines, {"a": [(0, 1, 0.1), (1, 2, 0.1)], "b": [(0, 1, None)]}, xlabel="x", ylabel="y")
    handles, labels = chart.axes[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    assert isinstance(shown["a"], ErrorbarContainer) and isinstance(shown["b"], Line2D)


def test_a_legend_is_read_row_by_row_levels_last() -> None:
    floors = {"popularity (floor)": 0.1, "markov (floor)": 0.2}
    chart = figure(draw_bars, ["g"], {name: [1.0] for name in ("base", "erl", "prl")}, ylabel="y", levels=floors)
    (legend,) = chart.legends
    canvas = FigureCanvasAgg(chart)
    canvas.draw()
    places = {text.get_text(): text.get_window_extent(canvas.get_renderer()) for text in legend.get_texts()}
    in_reading_order = sorted(places, key=lambda name: (-round(places[name].y0), places[name].x0))
    assert in_reading_order == ["base", "erl", "prl", *floors]


def test_two_runs_of_one_method_have_two_colours_and_their_levels_follow() -> None:
    found = colors(["prl: a", "prl: b"], ["prl: b, answer", "markov (floor)"])
    assert found["prl: a"] == METHOD_COLORS["prl"] != found["prl: b"] == found["prl: b, answer"]
    assert found["markov (floor)"] not in (found["prl: a"], found["prl: b"])


def test_an_axis_that_begins_at_zero_holds_the_error_bars_and_ranks_stand_upside_down() -> None:
    chart = figure(draw_lines, {"a": [(0, 2, (1, 7)), (1, 3, None)]}, xlabel="x", ylabel="y", from_zero=True)
    low, high = chart.axes[0].get_ylim()
    assert low == 0 and high > 9
    ranks = figure(
        draw_lines, {"a": [(0, 90, None), (1, 3, None)]}, xlabel="x", ylabel="y", log_y=True, top_is_best=True
    )
    bottom, top = ranks.axes[0].get_ylim()
    assert bottom > 90 and top < 3


def test_one_line_needs_no_legend() -> None:
    assert figure(draw_lines, {"prl": [(0, 1, None), (1, 2, None)]}, xlabel="x", ylabel="y").legends == []


def test_a_logarithmic_axis_names_the_values_and_refuses_those_it_cannot_show() -> None:
    chart = figure(draw_lines, {"prl": [(x, 1, None) for x in (0.05, 0.1, 2)]}, xlabel="τ", ylabel="y", log_x=True)
    (axes,) = chart.axes
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.05", "0.1", "2"]
    # values that lie close are named all the same
    close = figure(draw_lines, {"prl": [(x, 1, None) for x in (1, 1.2, 10)]}, xlabel="α", ylabel="y", log_x=True)
    assert [tick.get_text() for tick in close.axes[0].get_xticklabels()] == ["1", "1.2", "10"]
    with pytest.raises(ValueError, match="got 0, expected positive"):
        figure(draw_lines, {"prl": [(0, 1, None)]}, xlabel="x", ylabel="y", log_x=True)


def test_bars_stand_side_by_side_with_their_values() -> None:
    chart = figure(
        draw_bars, ["short", "long"], {"base": [1.0, 2.0], "prl": [0.1234, 4.0]}, ylabel="y", errors={"prl": [0.1, 0.2]}
    )
    (axes,) = chart.axes
    first, second = (container for container in axes.containers if hasattr(container, "patches"))
    assert [bar.get_height() for bar in first] == [1, 2] and [bar.get_height() for bar in second] == [0.1234, 4]
    for bar, beside in zip(first, second, strict=True):
        assert bar.get_x() + bar.get_width() == pytest.approx(beside.get_x())
    assert first.errorbar is None and second.errorbar is not None
    assert [text.get_text() for text in axes.texts] == ["1.00", "2.00", "0.12", "4.00"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["short", "long"]


def test_levels_cross_all_groups_or_each_its_own() -> None:
    levels = {"popularity (floor)": 1.5, "markov (floor)": [1.0, 3.0]}
    chart = figure(draw_bars, ["short", "long"], {"base": [1.0, 2.0]}, ylabel="y", levels=levels)
    (axes,) = chart.axes
    popularity, markov = (each for each in axes.collections if isinstance(each, LineCollection))
    ((left, right),) = popularity.get_segments()
    assert left[1] == right[1] == 1.5 and left[0] < 0 < 1 < right[0]
    first, second = markov.get_segments()
    assert (first[0][1], second[0][1]) == (1.0, 3.0) and first[1][0] < second[0][0]
    assert [text.get_text() for text in chart.legends[0].get_texts()] == list(levels)


def test_a_single_group_has_bars_of_the_usual_width() -> None:
    one = figure(draw_bars, ["sasrec"], {name: [1.0] for name in ("base", "erl", "prl")}, ylabel="y")
    (axes,) = one.axes
    FigureCanvasAgg(one).draw()
    widths = {bar.get_window_extent().width / one.dpi for bar in axes.patches}
    assert max(widths) < 1 and max(widths) == pytest.approx(min(widths))


def test_parts_make_up_a_whole_and_rows_without_parts_say_so() -> None:
    chart = figure(
        draw_parts,
        ["step 0", "step 1"],
        {"up": [np.nan, 70.0], "down": [np.nan, 30.0]},
        xlabel="rows",
        notes={"top 1": ["1 %", "2 %"]},
        without="the beginning",
    )
    (axes,) = chart.axes
    up, down = axes.containers
    assert [bar.get_width() for bar in (up[1], down[1])] == [70, 30] and down[1].get_x() == 70
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    assert texts == ["70 %", "30 %", "the beginning", "top 1", "1 %", "2 %"]


def test_a_single_series_of_methods_has_their_colours_and_no_legend() -> None:
    chart = figure(draw_bars, ["popularity", "base", "erl"], {"NDCG@20": [0.1, 0.2, 0.3]}, ylabel="NDCG@20")
    assert chart.legends == []
    popularity, *rest = chart.axes[0].patches
    assert same_color(popularity.get_facecolor(), FLOORS["popularity"].color)
    for bar, method in zip(rest, ("base", "erl"), strict=True):
        assert same_color(bar.get_facecolor(), METHOD_COLORS[method])


def test_heatmap_writes_its_values_and_leaves_what_is_missing_blank() -> None:
    chart = figure(
        draw_heatmap, [[1.0, 0.25], [np.nan, 0.5]], rows=["a", "b"], columns=["c", "d"], label="cosine", xlabel="step"
    )
    axes, colorbar = chart.axes
    assert [text.get_text() for text in axes.texts] == ["1.000", "0.250", "0.500"]
    assert colorbar.get_ylabel() == "cosine" and axes.get_xlabel() == "step"


def test_panels_share_one_legend_and_hide_what_is_left_over() -> None:
    draw = partial(draw_lines, series={"erl": [(0, 1, None)], "prl": [(0, 2, None)]}, xlabel="x", ylabel="y")
    chart = panels([draw] * 4, title="All", columns=3)
    assert len(chart.legends) == 1 and len(chart.legends[0].get_texts()) == 2
    assert [axes.get_visible() for axes in chart.axes] == [True] * 4 + [False] * 2
    assert_nothing_overlaps(chart)


LONG = {f"a rather long name of a series, number {number}": [(0, number, 1.0), (1, 2, None)] for number in range(9)}
BARS = {name: [0.0123, 0.0124, 0.0122, 0.0121] for name in ("base", "erl", "prl")}
PARTS = {"higher": [float("nan"), 40.0, 3.0], "same": [float("nan"), 58.0, 94.0], "lower": [float("nan"), 2.0, 3.0]}
NOTES = {"top 1": ["1.0 %", "2.0 %", "33.3 %"], "top 10": ["10.0 %", "12.0 %", "100.0 %"]}
GROUPS = ["a group with a long name", "another group, long too", "and a third", "(5, 17]"]


@pytest.mark.parametrize(
    "chart",
    [
        figure(draw_lines, LONG, xlabel="step", ylabel="NDCG@20", title="Long names"),
        figure(
            draw_lines, {"prl": [(x, 1, None) for x in (1, 1.2, 1.5, 2, 5, 10)]}, xlabel="α", ylabel="y", log_x=True
        ),
        figure(
            draw_bars, GROUPS, {name: [0.1, 0.2, 0.3, 0.4] for name in METHOD_COLORS}, ylabel="NDCG@20", xlabel="items"
        ),
        panels(
            [partial(draw_heatmap, values=np.eye(4), rows=GROUPS, columns=list("0123"), label="cosine", ylabel="step")]
            * 2
        ),
        figure(
            draw_bars,
            ["1", "2", "3", "4"],
            {name: [0.0101, 0.0202, 0.103, 0.0104] for name in METHOD_COLORS},
            ylabel="y",
        ),
        panels([partial(draw_bars, groups=["1", "2", "3", "4"], series=BARS, errors=BARS, ylabel="y", title="T")] * 2),
        figure(
            draw_bars,
            GROUPS,
            BARS,
            errors=BARS,
            levels={"popularity (floor)": 0.01, "markov (floor)": [0.01, 0.02, 0.012, 0.011]},
            ylabel="y",
            title="A title that is so long that it needs a second line to be written out in full, and perhaps a third",
        ),
        figure(draw_parts, ["step 0", "step 1", "prl: a run, step 2"], PARTS, xlabel="rows", title="T", notes=NOTES),
        panels([partial(draw_bars, groups=GROUPS, series={"a": [1, 2, 3, 4]}, ylabel="y")] * 3, title="Panels"),
    ],
    ids=["lines", "log", "bars", "heatmap", "long numbers", "bar panels", "levels", "parts", "panels"],
)
def test_nothing_overlaps_or_leaves_the_figure(chart: Figure) -> None:
    assert_nothing_overlaps(chart)
    assert_numbers_stand_apart(chart)
    rotated = any(tick.get_rotation() for axes in chart.axes for tick in axes.get_xticklabels())
    assert rotated or not tick_texts_overlap(chart)


def test_names_are_drawn_as_they_are_and_never_as_mathematics() -> None:
    names = {name: shown for name, shown in SHOWN.items() if len(shown) < 40}
    chart = figure(
        draw_lines, {name: [(0, 1, None), (1, 2, None)] for name in names}, xlabel="x", ylabel="y", title="$5 off $x_"
    )
    chart.set_layout_engine("none")
    with pytest.warns(UserWarning, match="Glyph"):
        FigureCanvasAgg(chart).draw()
    (legend,) = chart.legends
    drawn = [text.get_text() for text in legend.get_texts()]
    assert not any(is_math_text(text) for text in drawn)
    assert sorted(text.replace(r"\$", "$").removeprefix("\u200b") for text in drawn) == sorted(names.values())
