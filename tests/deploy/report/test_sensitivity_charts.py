"""Pictures of sensitivity and of the threshold line."""

import xml.etree.ElementTree as ElementTree

from deploy.report import figures_of
from deploy.report.sensitivity_charts import sensitivity_chart, threshold_chart


def curve(group: str, *accuracies: float, kind: str = "channels") -> dict[str, object]:
    return {
        "group": group,
        "kind": kind,
        "kept": [8, 4][: len(accuracies)],
        "ratios": [1.0, 0.5][: len(accuracies)],
        "accuracies": list(accuracies),
        "losses": [0.1, 0.7][: len(accuracies)],
        "macs": [100.0, 60.0][: len(accuracies)],
    }


def test_each_cut_is_a_dot_that_says_what_it_is() -> None:
    svg = sensitivity_chart([curve("a<b", 0.9, 0.5), curve("layer1.0", 0.9, 0.7, kind="block")])
    tips = [title.text for title in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")]
    assert tips[1] == "a<b: 4 of 8 kept, 50.00\u202f%, 60 MACs, loss 0.7"
    assert len(tips) == 1 + 2
    assert sensitivity_chart([curve("a", 0.9)]) == ""
    assert set(figures_of({"curves": [curve("a", 0.9, 0.5)]})) == {"sensitivity"}


def test_the_line_crosses_every_curve() -> None:
    groups = [{"group": "a", "curve": [1.0, 0.5, 0.1], "kept": 2, "knee": 2}]
    svg = threshold_chart({"line": 0.1, "groups": groups})
    assert "line at 0.1" in svg
    assert "a: 2 of 3 kept, knee at 2" in svg
    assert threshold_chart({"line": 0.0, "groups": []}) == ""
    assert set(figures_of({"sorted_scores": {"line": 0.1, "groups": groups}})) == {"threshold"}
