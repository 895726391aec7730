"""evals.comparing.chart: as many panels as benchmarks, marks where the numbers are."""

import pytest
from matplotlib.figure import Figure

from evals.comparing import chart
from evals.comparing.chart import Mark, Panel


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: figures.append(self) or save(self, *a, **k))
    return figures


def test_panels_marks_and_intervals(drawn, tmp_path):
    marks = [Mark("theirs", 0.6452, published=True), Mark("ours", 0.5, 0.4, 0.6)]
    chart.draw([Panel("a", "acc", marks), Panel("b", "acc", marks[:1]), Panel("c", "acc", marks)], tmp_path / "c.png")
    (figure,) = drawn
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["a", "b", "c"]  # no empty fourth
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["theirs", "ours"]
    theirs, line, ours = axis.lines
    assert (list(theirs.get_xdata()), theirs.get_markerfacecolor()) == ([64.52], "white")
    assert list(line.get_xdata()) == [40, 60] and list(ours.get_xdata()) == [50]
    assert [text.get_text() for text in axis.texts][:2] == ["64.52", "50.0"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first on top


def test_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="no panels"):
        chart.draw([Panel("a", "acc", [])], tmp_path / "c.png")
