"""Every public function with every kind of input does what the table of docs/reliability.md says."""

from __future__ import annotations

import pytest
from helpers import ROOT
from input_table import FUNCTIONS, INPUTS, outcome

import sfkd
import sfkd_viz

PAGE = ROOT / "docs" / "reliability.md"


def promised() -> dict[tuple[str, str], str]:
    """What the page says: (function, input) → outcome."""
    text = PAGE.read_text(encoding="utf-8").partition("<!-- inputs -->")[2].partition("<!-- end of inputs -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines() if line]
    groups = [[name.strip(" `") for name in cell.split(",")] for cell in rows[0][1:]]
    return {
        (name, row[0]): cell for row in rows[2:] for group, cell in zip(groups, row[1:], strict=True) for name in group
    }


def test_the_table_is_whole() -> None:
    assert set(promised()) == {(function, given) for function in FUNCTIONS for given in INPUTS}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_do_what_the_table_says(function: str) -> None:
    expected = promised()
    for given in INPUTS:
        found = outcome(function, given)
        assert found.word == expected[function, given], (given, found.said)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_refusal_says_what_was_expected_or_what_to_do(function: str) -> None:
    for given in INPUTS:
        found = outcome(function, given)
        if found.word == "refused":
            words = ("expects", "mend", "pass", "scale it", "empty", ".to(", ".double()")
            assert any(word in found.said for word in words), (given, found.said)
            assert "\n" not in found.said


def test_no_public_function_of_features_is_left_out() -> None:
    """Those that take models, runs or results have tests of their own."""
    others = {
        *(
            "Backbone",
            "DS2S",
            "create_distiller",
            "list_distillers",
            "load_demo",
            "load_run",
            "gaussian_mask",
            "max_levels",
        ),
        *("pair_layers", "band_ablation", "ds2s", "ds2s_layers", "grad_cam", "wavelet_attribution", "training_curves"),
        *("transfer_of", "CKAStream", "Analysis", "analyze", "load_analysis", "figure_data", "save_figure", "losses"),
        *("plot_attribution", "plot_band_ablation", "plot_ds2s", "plot_training", "plot_cka", "plot_transfer"),
    }
    results = {name for name in sfkd.__all__ if isinstance(getattr(sfkd, name), type)}
    for name in {*sfkd.__all__, *sfkd_viz.__all__} - others - results:
        assert name in FUNCTIONS, name
