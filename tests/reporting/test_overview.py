"""The tables of a report."""

from igpt.reporting.overview import table_of_few_labels


def row(features, count, accuracy, error):
    return {
        "features": features,
        "labels_per_class": str(count),
        "test_accuracy": str(accuracy),
        "test_accuracy_error": str(error),
    }


def test_few_labels_have_a_row_for_each_kind_and_a_column_for_each_number():
    rows = [row("trained", 4, 0.651, 0.008), row("raw pixels", 4, 0.605, 0.0079), row("trained", 25, 0.77, 0.002)]
    names, cells = table_of_few_labels([*rows, row("raw pixels", 25, 0.76, 0.003)])
    assert names == ["features", "4 per class", "25 per class"]
    assert [[cell.text for cell in line] for line in cells] == [
        ["trained", "65.1 ± 0.8", "77.0 ± 0.2"], ["raw pixels", "60.5 ± 0.8", "76.0 ± 0.3"],
    ]  # fmt: skip
    assert cells[0][1].number == 0.651  # sorted by it
