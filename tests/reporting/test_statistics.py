import statistics

import pytest

from utils.reporting.statistics import Gain, paired_gain, summarise_gain, t_quantile
from utils.runtime.errors import UserError

DOFS = (1, 2, 3, 4, 9, 30, 1001)
QUANTILES = {  # scipy.stats.t.ppf(p, DOFS) of SciPy 1.17
    0.51: (
        *(0.0314262660434, 0.0282899297993, 0.0272114670491, 0.0266706183026),
        *(0.0257740475077, 0.0252787839718, 0.025075173943),
    ),
    0.9: (3.07768353718, 1.88561808316, 1.6377443537, 1.53320627406, 1.3830287384, 1.31041502539, 1.28239787458),
    0.975: (12.7062047362, 4.30265272975, 3.18244630528, 2.7764451052, 2.2621571628, 2.0422724563, 1.96233670528),
    0.9999: (
        3183.09875712,
        70.700071075,
        22.2037422732,
        13.0336717209,
        6.01013212908,
        4.23398595727,
        3.7328377374,
    ),
}


@pytest.mark.parametrize("p", QUANTILES)
def test_quantiles_of_students_t_are_those_of_scipy(p):
    for dof, expected in zip(DOFS, QUANTILES[p], strict=True):
        assert t_quantile(p, dof) == pytest.approx(expected, rel=1e-9)
        assert t_quantile(1 - p, dof) == pytest.approx(-expected, rel=1e-9)


@pytest.mark.parametrize(("p", "dof"), [(0.0, 3), (1.0, 3), (0.975, 0)])
def test_quantiles_that_do_not_exist_are_refused(p, dof):
    with pytest.raises(UserError, match="no quantile"):
        t_quantile(p, dof)


@pytest.mark.parametrize(
    ("values", "baseline", "low", "high"),
    [  # scipy.stats.ttest_rel(values, baseline).confidence_interval(0.95)
        ([81.5, 82.0], [80.0, 80.1], -0.8412409472349722, 4.241240947234978),
        ([81.5, 82.0, 84.0], [80.0, 81.0, 82.5], 0.6162245450417562, 2.0504421216249105),
        ([60.1, 60.2, 59.7, 60.0, 61.3], [60.4, 61.1, 59.5, 60.6, 61.0], -0.8967690746310608, 0.3767690746310619),
    ],
)
def test_the_interval_of_a_gain_is_that_of_scipys_paired_t_test(values, baseline, low, high):
    gain = paired_gain(values, baseline)
    differences = [value - other for value, other in zip(values, baseline, strict=True)]
    assert gain.n == len(values)
    assert gain.mean == pytest.approx(statistics.mean(differences))
    assert gain.sd == pytest.approx(statistics.stdev(differences))
    assert (gain.low, gain.high) == pytest.approx((low, high), rel=1e-9)


def test_what_both_runs_of_a_seed_share_does_not_widen_the_interval():
    gain = paired_gain([50.0, 70.0, 90.0], [49.0, 69.0, 89.0])
    assert gain == Gain(3, 1.0, 0.0, 1.0, 1.0)


def test_a_single_seed_has_a_difference_and_no_interval():
    assert paired_gain([82.0], [80.5]) == Gain(1, 1.5, None, None, None)


@pytest.mark.parametrize(("values", "baseline"), [([], []), ([80.0, 81.0], [80.0]), ([80.0], [80.0, 81.0])])
def test_results_that_have_no_partner_are_refused(values, baseline):
    with pytest.raises(UserError, match="cannot be paired"):
        paired_gain(values, baseline)


@pytest.mark.parametrize(
    ("gain", "text"),
    [
        (Gain(3, 1.3, 0.2, 0.8, 1.8), "KD gains 1.3 ± 0.2 points (3 seeds, 95 % interval 0.8 to 1.8)"),
        (Gain(2, -1.3, 0.2, -1.8, -0.8), "KD loses 1.3 ± 0.2 points (2 seeds, 95 % interval 0.8 to 1.8)"),
        (
            Gain(3, 0.4, 0.9, -1.8, 2.6),
            "KD: no measurable gain (+0.4 ± 0.9 points, 3 seeds, 95 % interval -1.8 to 2.6)",
        ),
        (
            Gain(3, -0.4, 0.9, -2.6, 1.8),
            "KD: no measurable gain (-0.4 ± 0.9 points, 3 seeds, 95 % interval -2.6 to 1.8)",
        ),
        (
            Gain(1, 1.3, None, None, None),
            "KD: +1.3 points in one seed, which cannot tell gain from chance; --seeds 3 can",
        ),
        (
            Gain(1, -2.0, None, None, None),
            "KD: -2.0 points in one seed, which cannot tell gain from chance; --seeds 3 can",
        ),
    ],
)
def test_a_gain_or_a_loss_is_claimed_only_where_the_interval_leaves_out_zero(gain, text):
    assert summarise_gain("KD", gain) == text


def test_a_summary_of_runs_without_any_spread_breaks_nothing():
    assert summarise_gain("KD", paired_gain([80.0] * 3, [80.0] * 3)) == (
        "KD: no measurable gain (+0.0 ± 0.0 points, 3 seeds, 95 % interval 0.0 to 0.0)"
    )
    assert summarise_gain("KD", paired_gain([82.0] * 3, [80.0] * 3)) == (
        "KD gains 2.0 points, the same in all 3 seeds"
    )


def test_an_interval_that_nearly_reaches_zero_is_not_rounded_to_it():
    text = summarise_gain("KD", Gain(3, 0.42, 0.16, 0.03, 0.81))
    assert text == "KD gains 0.42 ± 0.16 points (3 seeds, 95 % interval 0.03 to 0.81)"
    assert "(+0.00 ± " in summarise_gain("KD", Gain(3, -0.001, 0.5, -1.0, 1.0))


def test_equal_differences_claim_no_certainty_from_the_noise_of_subtraction():
    gain = paired_gain([1.2, 2.2], [0.2, 1.2])
    assert gain.sd == 0
    assert summarise_gain("KD", gain) == "KD gains 1.0 points, the same in all 2 seeds"
    assert (
        summarise_gain("KD", paired_gain([1.0, 2.0], [1.5, 2.5])) == "KD loses 0.5 points, the same in all 2 seeds"
    )
