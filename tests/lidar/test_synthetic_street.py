"""The synthetic street: exact rays, true labels, scenes that hang on seed, part and index alone, and files of them."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

import prepare_data
from lib.boxes import camera_to_lidar, observation_angle, projected_box
from lib.camera import rotation_about
from lib.datasets.kitti_object import Frame, open_frames
from lib.datasets.scene_flow import shapes
from lib.datasets.synthetic_street import CALIBRATION, IMAGE_SIZE, SyntheticStreet, bodies, draw_scene, lidar, observe
from lib.datasets.synthetic_street.rays import GROUND, cast
from lib.datasets.synthetic_street.world import OBJECTS, OWN_CAR, SIZES, Thing, World
from lib.errors import InputError
from lib.metrics.kitti_overlap import ground_intersection
from tests.runs import ROOT

COUNT = 6
CAR = Thing("Car", 20.0, 0.0, 0.0, (4.0, 1.6, 1.5))


@pytest.fixture(scope="module")
def scenes():
    """[(world, scan, labels)] of a few training scenes."""
    worlds = [draw_scene(0, "train", index) for index in range(COUNT)]
    return [(world, *observe(world, np.random.default_rng(index))) for index, world in enumerate(worlds)]


def street(*things: Thing, heading: float = 0.0) -> World:
    """A street with these things only, seen from (0, 0, 1.73)."""
    placed = [(bodies.PARTS[thing.kind](*thing.size), thing.x, thing.y, thing.yaw) for thing in things]
    return World(list(things), bodies.place(placed), np.array([0.0, 0.0, 1.73]), heading)


def in_box(points: np.ndarray, thing: Thing, margin: float = 0.0) -> np.ndarray:
    """Which street points (N, 3) lie in the box of a thing, grown by a margin on every side."""
    cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
    x, y = points[:, 0] - thing.x, points[:, 1] - thing.y
    local = np.stack((cos * x + sin * y, cos * y - sin * x, points[:, 2] - thing.size[2] / 2), -1)
    return (np.abs(local) <= np.array(thing.size) / 2 + margin).all(1)


def to_street(world: World, points: np.ndarray) -> np.ndarray:
    """LiDAR points (N, 3) in the street frame."""
    return points.astype(np.float64) @ rotation_about(np.array([0.0, 0.0, 1.0]), world.heading).T + world.eye


# ---- rays ----


def test_first_hits_are_those_of_other_code_without_windows():
    """The bodies of the scene flow sets are written in another way, and every ray is tried with every body."""
    world = draw_scene(0, "train", 3)
    fan, street_bodies = lidar.fan_of(world), world.bodies
    hits = cast(street_bodies, fan)
    directions = fan.directions[:, ::3, ::7].reshape(3, -1).T  # (R, 3)
    upright = rotation_about(np.array([1.0, 0.0, 0.0]), np.pi / 2)  # their cylinders stand along y
    first = np.where(directions[:, 2] < 0, 1.73 / np.maximum(-directions[:, 2], 1e-12), np.inf)
    body = np.full(len(first), GROUND)
    for i, (shape, centre, half, yaw) in enumerate(zip(*street_bodies[:4], strict=True)):
        turn = rotation_about(np.array([0.0, 0.0, 1.0]), yaw)
        solid = (
            shapes.cylinder(half[0], half[1], half[2]).placed(centre, turn @ upright)
            if shape == bodies.CYLINDER
            else (shapes.box if shape == bodies.BOX else shapes.ellipsoid)(half).placed(centre, turn)
        )
        met = solid.entry(world.eye, directions)
        body = np.where(met < first, i, body)
        first = np.minimum(met, first)
    assert len(set(street_bodies.shape[body[body != GROUND]])) == 3
    np.testing.assert_allclose(hits.distance[::3, ::7].ravel(), first, rtol=1e-9)
    np.testing.assert_array_equal(hits.body[::3, ::7].ravel(), body)


def test_normals_point_out_of_the_body_towards_the_eye():
    world = draw_scene(0, "train", 3)
    fan = lidar.fan_of(world)
    hits = cast(world.bodies, fan)
    met = hits.body != GROUND
    rows, directions = hits.body[met], fan.directions[:, met].T
    points = world.eye + hits.distance[met][:, None] * directions
    normal = bodies.normals(world.bodies, rows, points)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1.0)
    assert ((normal * directions).sum(1) < 0).all()
    steps = []
    for step in (1e-5, -1e-5):  # m, out and in
        unit = bodies.to_local(world.bodies, rows, points + step * normal - world.bodies.centre[rows])
        unit = np.abs(unit / world.bodies.half[rows])
        shape = world.bodies.shape[rows]
        inside = np.where(shape == bodies.BOX, unit.max(1), np.linalg.norm(unit, axis=1))
        steps.append(np.where(shape == bodies.CYLINDER, np.maximum(np.hypot(*unit.T[:2]), unit[:, 2]), inside))
    assert len(set(world.bodies.shape[rows])) == 3 and (steps[0] > 1).all()
    assert (steps[1] < 1).mean() > 0.999  # but for edges


@pytest.mark.parametrize("kind", OBJECTS)
def test_bodies_lie_in_the_box_and_reach_its_sides(kind):
    for size in (tuple(row[2] for row in SIZES[kind]), tuple(row[3] for row in SIZES[kind])):
        placed = street(Thing(kind, 0.0, 0.0, 0.0, size)).bodies
        low, high = (placed.centre - placed.half).min(0), (placed.centre + placed.half).max(0)
        box = np.array((size[0] / 2, size[1] / 2, size[2]))
        assert (low >= (*-box[:2] - 1e-9, 0.0)).all() and (high <= box + 1e-9).all()
        np.testing.assert_allclose(high, box)


# ---- the scan ----


def test_noise_and_loss_of_a_wall_and_of_grazed_ground():
    world = street(Thing("Building", 24.0, 0.0, 0.0, (8.0, 60.0, 12.0)))  # its front stands at x = 20 m
    made = lidar.scan(
        world,
        fan := lidar.fan_of(world),
        hits := cast(world.bodies, fan),
        np.random.default_rng(0),
        CALIBRATION,
        IMAGE_SIZE,
    )
    seen = CALIBRATION.in_view((hits.distance * lidar.DIRECTIONS).transpose(1, 2, 0), IMAGE_SIZE)
    wall = made.owner == 0
    distance = np.linalg.norm(made.points[:, :3], axis=1)
    error = (1.0 - 20.0 / made.points[wall, 0]) * distance[wall]  # along the ray
    assert abs(error.mean()) < 1e-3 and error.std() == pytest.approx(0.02, rel=0.03)
    assert wall.sum() / (seen & (hits.body != GROUND)).sum() == pytest.approx(0.97, abs=0.006)
    cosine = np.abs(lidar.DIRECTIONS[2])
    grazed = seen & (hits.body == GROUND) & (cosine < 0.12)
    kept = (~wall & (-made.points[:, 2] / distance < 0.12)).sum()
    assert kept / grazed.sum() == pytest.approx(1 - (0.03 + 0.6 * (1 - cosine[grazed] / 0.12)).mean(), abs=0.015)
    road = ~wall & (distance < 8.0) & (np.abs(made.points[:, 1]) < 4.0)
    expected = 0.22 * (0.35 + 0.65 * 1.73 / distance[road])
    assert (made.points[road, 3] - expected).std() == pytest.approx(0.03, rel=0.06)
    assert made.points[:, 3].min() >= 0.0 and made.points[:, 3].max() <= 0.99


def test_what_one_ray_meets_changes_no_other_ray():
    alone, both = (observe(street(*things), np.random.default_rng(1))[0] for things in ((), (CAR,)))
    ground = both.points[both.owner == -1]
    rows = set(map(bytes, alone.points))
    assert len(ground) < len(alone.points) and all(bytes(row) in rows for row in ground)


def test_points_of_an_object_lie_in_its_box(scenes):
    owned = 0
    for world, made, _ in scenes:
        assert made.points.dtype == np.float32 and np.isfinite(made.points).all()
        assert CALIBRATION.in_view(made.points[:, :3], IMAGE_SIZE).all()
        points = to_street(world, made.points[:, :3])
        assert np.abs(points[made.owner == -1, 2]).max() < 0.1  # the ground
        for number, thing in enumerate(world.things):
            if thing.kind in OBJECTS:
                mine = points[made.owner == number]
                owned += len(mine)
                assert in_box(mine, thing, margin=0.1).all()
    assert owned > 1000 * COUNT


# ---- labels ----


def test_boxes_of_a_scene_do_not_overlap():
    pairs = near = 0
    for index in range(30):
        things = [thing for thing in draw_scene(0, "train", index).things if thing.kind in OBJECTS]
        ground = np.array([OWN_CAR[:2] + OWN_CAR[3:] + OWN_CAR[2:3]] + [(t.x, t.y, *t.size[:2], t.yaw) for t in things])
        first, second = np.triu_indices(len(ground), 1)
        for extra in (0.499, 1.5):  # the later one of two has at least 0.25 m of room on every side
            shared = ground_intersection(ground[first], ground[second] + (0.0, 0.0, extra, extra, 0.0))
            assert extra > 0.5 or shared.max() == 0.0
        pairs, near = pairs + len(first), near + (shared > 0).sum()
    assert pairs > 1000 and near > 20


def test_labels_describe_the_world(scenes):
    for world, _, labels in scenes:
        objects = [thing for thing in world.things if thing.kind in OBJECTS]
        for label in labels:
            if label.type == "DontCare":
                assert label.occluded == -1 and min(np.subtract(label.box2d[2:], label.box2d[:2])) >= 2.0
                continue
            box = camera_to_lidar(label.camera_box, CALIBRATION.lidar_to_camera)
            place = to_street(world, box[None, :3])[0]
            thing = min(objects, key=lambda t: np.hypot(t.x - place[0], t.y - place[1]))
            np.testing.assert_allclose(place, (thing.x, thing.y, thing.size[2] / 2), atol=2e-6)
            np.testing.assert_allclose(box[3:6], thing.size, atol=1e-6)
            assert label.type == thing.kind and np.cos(box[6] + world.heading - thing.yaw) == pytest.approx(1.0)
            assert label.alpha == pytest.approx(observation_angle(label.camera_box), abs=2e-6)
            assert label.box3d[2] >= 2.5 and all(value == float(f"{value:.6f}") for value in label.box3d)
            if label.box3d[2] > 4.0:  # the whole box lies ahead
                hull, visible = projected_box(label.camera_box, CALIBRATION.P2, IMAGE_SIZE)
                assert visible
                np.testing.assert_allclose(label.box2d, hull, atol=2e-3)
                assert (label.truncated > 0) == bool(np.isin(label.box2d, (0.0, 1241.0, 374.0)).any())


@pytest.mark.parametrize(("x", "y"), [(6.0, 4.5), (3.4, 2.4)])
def test_truncated_is_the_share_outside_the_image(x, y):
    (label,) = observe(street(CAR._replace(x=x, y=y)), np.random.default_rng(0))[1]
    shifted = CALIBRATION.P2 + 1e4 * np.array([1, 1, 0])[:, None] * CALIBRATION.P2[2]  # an image with room on all sides
    wide = projected_box(label.camera_box, shifted, (20_000, 20_000))[0]
    area = np.prod(wide[2:] - wide[:2])
    assert label.truncated == pytest.approx(1 - np.prod(np.subtract(label.box2d[2:], label.box2d[:2])) / area, abs=1e-5)
    assert 0.1 < label.truncated < 1.0


def test_a_box_that_reaches_behind_the_camera_is_cut_at_a_tenth_of_a_metre():
    (label,) = observe(street(Thing("Van", 2.85, 0.0, 0.0, (6.0, 1.9, 2.1))), np.random.default_rng(0))[1]
    assert label.box2d == (0.0, 0.0, 1241.0, 374.0)
    assert label.truncated == pytest.approx(1 - 1241 * 374 / (721.5377**2 * (1.9 / 0.1) * (2.1 / 0.1)), abs=1e-6)


def test_occluded_grows_with_the_wall_before_an_object():
    levels = []
    for cover in (0.0, 0.1, 0.35, 0.75, 0.95, 1.1):  # the share of the car's width behind the wall
        edge = -0.48 + 0.96 * cover  # the car is 1.6 m wide at 18 m, so 0.96 m at 10.8 m
        wall = Thing("Building", 10.8, edge - 2.0, 0.0, (0.1, 4.0, 3.0))
        labels = observe(street(CAR, wall), np.random.default_rng(0))[1]
        assert len(labels) == 1
        levels.append((labels[0].type, labels[0].occluded))
    assert levels == [("Car", 0), ("Car", 0), ("Car", 1), ("Car", 2), ("DontCare", -1), ("DontCare", -1)]


@pytest.mark.parametrize(
    ("thing", "types"),
    [
        (CAR._replace(x=2.4), ["DontCare"]),  # its middle is nearer than 2.5 m
        (CAR._replace(x=3.4), ["Car"]),
        (CAR._replace(x=-9.0), []),
        (CAR._replace(x=8.0, y=12.0), []),  # left of the image
        (Thing("Van", 15.0, 1.0, 0.3, (5.0, 1.9, 2.1)), ["Van"]),
        (Thing("Pole", 15.0, 1.0, 0.3, (0.2, 0.2, 5.0)), []),
    ],
)
def test_what_is_labelled(thing, types):
    assert [label.type for label in observe(street(thing), np.random.default_rng(0))[1]] == types


# ---- the set ----


def digest(frame: Frame) -> str:
    return hashlib.sha256(frame.points.tobytes() + repr(frame.objects).encode()).hexdigest()


def test_a_scene_depends_on_seed_part_and_index_alone():
    code = (
        "import hashlib; from lib.datasets.synthetic_street import SyntheticStreet\n"
        "for frame in map(SyntheticStreet('test', 9, 4).__getitem__, (5, 0)):\n"
        "    print(hashlib.sha256(frame.points.tobytes() + repr(frame.objects).encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    frames = SyntheticStreet("test", 6, seed=4)
    assert [digest(frames[0]), digest(frames[5])] == other.stdout.split()[::-1]
    others = (SyntheticStreet("train", 1, 4), SyntheticStreet("validation", 1, 4), SyntheticStreet("test", 1))
    alike = [frames[0], frames[1], *(street[0] for street in others)]
    for a in range(len(alike)):
        for b in range(a):
            assert not set(map(bytes, alike[a].points)) & set(map(bytes, alike[b].points))


def test_scenes_are_pinned():
    """When this fails, scores on the set are no longer comparable with those written down before."""
    numbers = []
    pinned = (("train", 0), ("validation", 7), ("test", 127))
    for part, index in pinned:
        world = draw_scene(0, part, index)
        numbers += [(thing.kind, *np.round((thing.x, thing.y, thing.yaw, *thing.size), 6)) for thing in world.things]
        numbers += [tuple(np.round((*world.eye, world.heading), 6))]
    text = "\n".join(" ".join(map(str, row)) for row in numbers)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "b1cfb8d57fab5b74"
    frames = [SyntheticStreet(part, index + 1)[index] for part, index in pinned]
    assert [len(frame.points) for frame in frames] == [17665, 17140, 17424]
    kinds = [" ".join(f"{label.type[:2]}{label.occluded}" for label in frame.objects) for frame in frames]
    assert kinds == [
        "Ca0 Ca0 Ca2 Ca0 Ca1 Ca2 Ca0 Ca2 Ca0 Pe0 Cy0 Cy0 Cy0 Cy0 Cy2 Cy1",
        "Ca0 Ca0 Ca0 Ca1 Ca1 Ca2 Ca2 Pe0 Pe0 Do-1 Do-1 Do-1 Do-1 Do-1",
        "Ca0 Ca0 Ca0 Ca0 Ca0 Ca1 Ca1 Ca2 Va0 Ca1 Va1 Pe0 Pe2 Cy0 Cy0 Do-1 Do-1",
    ]


def test_statistics():
    frames = SyntheticStreet("train", 16)
    points = [len(frame.points) for frame in frames]
    types = [label.type for frame in frames for label in frame.objects]
    assert 16_600 < np.mean(points) < 18_000 and 15_000 < min(points) and max(points) < 19_000
    assert 7 < types.count("Car") / 16 < 13 and 1 < types.count("Pedestrian") / 16 < 4
    assert 0.7 < types.count("Cyclist") / 16 < 3 and 0 < types.count("Van") < 20 and types.count("DontCare") > 5


def test_it_is_a_sequence_of_frames():
    frames = SyntheticStreet("validation", 3)
    assert len(frames) == 3 and frames.names == ["800000", "800001", "800002"]
    assert SyntheticStreet("train", 2).names == ["000000", "000001"] and SyntheticStreet("test", 1).names == ["900000"]
    frame = frames[-1]
    assert frame.name == "800002" and frame.image_path is None and frame.image_size == (1242, 375)
    assert frame is frames[2]  # kept in memory
    with pytest.raises(ValueError, match="read-only"):
        frame.points[0] = 0.0
    with pytest.raises(IndexError):
        frames[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("val", 3), "no part 'val': choose one of train, validation, test"),
        (("train", 0), "number of scenes is 0; the part train can have 1 to 800000"),
        (("test", 100_001), "number of scenes is 100001; the part test can have 1 to 100000"),
        (("train", 3, -1), "seed is -1; it must be 0 or more"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        SyntheticStreet(*arguments)


# ---- files ----


@pytest.mark.filterwarnings("ignore:.*the full split")
def test_prepared_files_are_read_back_the_same(tmp_path, capsys):
    command = ["synthetic", str(tmp_path), "--dataset", "synthetic-lidar", "--scenes", "2", "--workers", "2"]
    assert prepare_data.main(command) == 0
    root = tmp_path / "synthetic-lidar"
    for part, name in (("train", "train.txt"), ("validation", "val.txt"), ("test", "test.txt")):
        computed = SyntheticStreet(part, 2)
        read = open_frames(root, root / "ImageSets" / name)
        assert read.names == computed.names
        for ours, theirs in zip(computed, read, strict=True):
            assert theirs.points.tobytes() == ours.points.tobytes() and theirs.objects == ours.objects
            assert theirs.image_size == ours.image_size and theirs.image_path.is_file()
            for key in ("P2", "R0_rect", "Tr_velo_to_cam"):
                np.testing.assert_array_equal(getattr(theirs.calibration, key), getattr(ours.calibration, key))
    scan_file, label_file = root / "training/velodyne_reduced/800001.bin", root / "training/label_2/000001.txt"
    whole = scan_file.read_bytes()
    scan_file.write_bytes(whole[:-3])
    label_file.unlink()
    capsys.readouterr()
    assert prepare_data.main(command) == 0
    assert "4 finished before" in capsys.readouterr().out
    assert scan_file.read_bytes() == whole and label_file.is_file()
    with pytest.raises(SystemExit):
        prepare_data.main([*command, "--report"])
    assert "leave it out for synthetic-lidar" in capsys.readouterr().err
