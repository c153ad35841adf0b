"""Features and their sites: three layouts, coarser sites, and which features a place means."""

import pytest
import torch

from lib.errors import InputError
from lib.features import Feature, Shape, Sites
from lib.losses.distill import METHODS, Selection, Setting, Term, parse_distill
from lib.losses.distill.method import features_at, level_of
from tests.distill.steps import SETTING, nested_sites, normal


def feature_map(*shape: int) -> Feature:
    return Feature(normal(*shape), "map", Sites(), importance=normal(shape[0], *shape[2:], seed=1))


def test_channels_come_last_and_positions_in_one_axis():
    cells = feature_map(2, 3, 4, 5)
    assert cells.by_position().shape == (2, 20, 3) and cells.rows().shape == (40, 3)
    assert torch.equal(cells.by_position()[1, 7], cells.values[1, :, 1, 2])  # cell 7 is row 1, column 2
    assert torch.equal(cells.rows()[20 + 7], cells.values[1, :, 1, 2])
    assert torch.equal(cells.importance_of_clouds()[1, 7], cells.importance[1, 1, 2])
    points = Feature(normal(2, 5, 3), "points", Sites())
    assert points.by_position() is points.values and points.as_clouds() is points.values
    assert points.importance_of_clouds() is None
    rows = Feature(normal(6, 3), "rows", Sites(), importance=normal(6))
    assert rows.by_position() is rows.values and torch.equal(rows.rows(), rows.values)
    assert rows.as_clouds().shape == (1, 6, 3) and rows.importance_of_clouds().shape == (1, 6)


def test_points_are_brought_down_along_the_chain():
    sites = nested_sites()
    fine, coarse = (Feature(sites[level].places, "points", sites[level]) for level in (0, 2))
    assert fine.at(fine) is fine.values
    assert torch.equal(fine.at(coarse), sites[2].places)
    with pytest.raises(InputError, match="these sites are not a part of the finer ones"):
        coarse.at(fine)
    with pytest.raises(InputError, match="these sites are not a part of the finer ones"):
        fine.at(Feature(coarse.values, "points", nested_sites()[2]))


def test_a_map_is_averaged_over_the_coarser_cells():
    fine, coarse = feature_map(2, 3, 4, 6), Feature(normal(2, 5, 2, 3), "map", Sites())
    brought = fine.at(coarse)
    assert brought.shape == (2, 6, 3)
    torch.testing.assert_close(brought[1, 5], fine.values[1, :, 2:, 4:].mean((1, 2)))
    with pytest.raises(InputError, match=r"of map \(2, 5, 2, 3\) cannot be brought to the sites of one of map \(2, 3,"):
        coarse.at(fine)
    with pytest.raises(InputError, match="a feature of rows .* cannot be brought to the sites of one of map"):
        Feature(normal(6, 3), "rows", Sites()).at(fine)


def test_nothing_of_a_detached_feature_has_a_gradient():
    values = normal(2, 3, 4).requires_grad_()
    sites, importance = Sites(), normal(2, 3)
    detached = Feature(values, "points", sites, importance).detached()
    assert not detached.values.requires_grad and detached.sites is sites and detached.importance is importance


# --- places ------------------------------------------------------------------------------------------------------

DETECTOR = {
    "pillars": Shape(8, "rows"),
    "bev/0": Shape(8, "map"),
    "bev/1": Shape(16, "map"),
    "bev2/0": Shape(16, "map"),
}


@pytest.mark.parametrize(
    "place, names",
    [("pillars", ("pillars",)), ("bev", ("bev/0", "bev/1")), ("bev/1", ("bev/1",)), ("bev2", ("bev2/0",))],
)
def test_a_place_is_a_name_or_the_beginning_of_one(place, names):
    assert features_at(place, Setting(DETECTOR, DETECTOR, 2)) == names
    assert features_at(place, Setting(DETECTOR, None, 2)) == names


@pytest.mark.parametrize("place", ["be", "bev/", "bev/2", "", "pillars/0"])
def test_a_place_without_features_is_refused(place):
    with pytest.raises(InputError, match=f"the student has no feature {place}: choose a place of pillars, bev/0, "):
        features_at(place, Setting(DETECTOR, None, 2))


def test_a_network_without_features_says_so():
    with pytest.raises(InputError, match="the student has no feature fpn: it has none at all"):
        features_at("fpn", Setting({}, {}, 2))
    with pytest.raises(InputError, match="the teacher has no feature bev/1: choose a place of bev/0"):
        features_at("bev", Setting(DETECTOR, {"bev/0": Shape(8, "map")}, 2))


def test_the_level_is_the_number_at_the_end():
    assert [level_of(name) for name in ("predictor/2", "pillars", "fpn/10", "bev/a")] == [2, None, 10, None]


# --- a task's own defaults ---------------------------------------------------------------------------------------

DEFAULTS = {"output": (None, 0.5), "multiscale": ("embedding", 0.25), "hint": ("predictor/3", 7.0)}


def test_a_task_has_its_own_places_and_weights():
    chosen = parse_distill("output,multiscale,hint@pyramid1/2,pkd", None, DEFAULTS)
    terms = (Term("multiscale", 0.25), Term("hint", 7.0, "pyramid1/2"), Term("pkd", 6.0))
    assert chosen == Selection(0.5, terms)
    multiscale, hint, pkd = chosen.build(SETTING, DEFAULTS).methods
    assert multiscale.features == tuple(f"embedding/{level}" for level in range(4))
    assert hint.features == ("pyramid1/2",) and pkd.features[0] == f"{METHODS['pkd'].place}/0"
    assert parse_distill("hint:2", None, DEFAULTS).build(SETTING, DEFAULTS).methods[0].features == ("predictor/3",)


def test_what_the_user_gives_goes_before_the_tasks_defaults():
    assert parse_distill("output:0.1,multiscale@predictor:3", None, DEFAULTS) == Selection(
        0.1, (Term("multiscale", 3.0, "predictor"),)
    )
    assert parse_distill(None, 0.9, DEFAULTS).gamma == 0.9 and parse_distill(None, None, DEFAULTS).gamma == 0.5
    with pytest.raises(InputError, match="--distill hint@: give one such as hint@predictor/3"):
        parse_distill("hint@", None, DEFAULTS)


def test_the_whole_loss_asks_for_each_feature_once():
    loss = parse_distill("multiscale,rkd,hint,self").build(SETTING)
    assert loss.features == tuple(
        f"{family}/{n}" for family, n in [*(("pyramid1", n) for n in range(4)), *(("predictor", n) for n in range(3))]
    )
    assert loss.needs_levels and not parse_distill("multiscale,rkd").build(SETTING).needs_levels
