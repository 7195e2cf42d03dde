"""tools/draw_detections.py: every label has its own place in the picture, near its box."""

import numpy as np
import pytest
from conftest import load_tool
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

ROOM = Bbox([[10, 20], [210, 120]])


@pytest.fixture(scope='module')
def module():
    return load_tool('draw_detections')


def overlap(first, second):
    """Area that two rectangles (left, bottom, right, top) have in common."""
    width, height = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    return max(0, width) * max(0, height)


def test_a_place_is_in_the_room_overlaps_nothing_and_is_the_nearest_free_one(module):
    draw, taken = np.random.default_rng(0), np.empty((0, 4))
    for _ in range(30):
        wanted, size = draw.uniform((0, 0), (220, 140)), draw.uniform((5, 5), (40, 12))
        place = module.free_place(taken, wanted, size, ROOM)
        box = np.array([*place, *(place + size)])
        assert (box[:2] >= ROOM.min).all()
        assert (box[2:] <= ROOM.max).all()
        assert not any(overlap(box, other) for other in taken)
        nearest = np.clip(wanted, ROOM.min, ROOM.max - size)
        distance = np.linalg.norm(place - nearest)
        for x in np.arange(ROOM.x0, ROOM.x1 - size[0], module.STEP):  # what is nearer is taken
            for y in np.arange(ROOM.y0, ROOM.y1 - size[1], module.STEP):
                if np.hypot(*((x, y) - nearest)) < distance - 1e-9:
                    assert any(overlap(np.array([x, y, x + size[0], y + size[1]]), other) > 0 for other in taken)
        taken = np.vstack([taken, box])


def test_a_label_is_where_it_is_wanted_unless_this_is_outside_or_taken(module):
    none, size = np.empty((0, 4)), (30, 10)
    assert module.free_place(none, (51.5, 70.25), size, ROOM).tolist() == [51.5, 70.25]
    assert module.free_place(none, (0, 300), size, ROOM).tolist() == [10, 110]
    assert module.free_place(np.array([[10, 20, 210, 120]]), (50, 50), size, ROOM) is None
    assert module.free_place(none, (50, 50), (201, 10), ROOM) is None


@pytest.mark.parametrize('count', [1, 12, 300])
def test_labels_lie_in_the_picture_and_not_on_each_other_and_what_has_no_room_is_counted(module, count):
    figure = Figure(figsize=(3, 3), dpi=200)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.imshow(np.zeros((64, 64)))
    draw = np.random.default_rng(count)
    corners = draw.uniform(0, 50, (count, 2))  # some at the edges, many on each other
    boxes = np.hstack([corners, corners + draw.uniform(3, 14, (count, 2))])
    left_out = module.draw_boxes(axes, boxes.tolist(), [f'class_{i} $' for i in range(count)], 'orange')
    figure.draw_without_rendering()
    labels = [np.ravel(text.get_bbox_patch().get_window_extent()) for text in axes.texts]
    labels = [np.array([*each[:2], *each[2:]]) for each in labels]
    assert len(labels) == count - left_out
    assert (left_out > 0) == (count == 300)
    assert len(axes.patches) == count, 'a box without a label is drawn'
    x0, y0, x1, y1 = axes.get_window_extent().extents
    for number, label in enumerate(labels):
        assert label[0] >= x0 - 1e-6
        assert label[1] >= y0 - 1e-6
        assert label[2] <= x1 + 1e-6
        assert label[3] <= y1 + 1e-6
        assert not any(overlap(label, other) > 1e-6 for other in labels[:number])
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 63.5), (63.5, -0.5))


def test_a_label_stands_on_its_box_and_a_line_leads_to_one_that_had_to_move(module):
    figure = Figure(figsize=(3, 3), dpi=200)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.zeros((100, 100)))
    module.draw_boxes(axes, [[20, 40, 50, 80]] * 4, ['one', 'two', 'three', 'four'], 'orange')
    figure.draw_without_rendering()
    first, *_ = axes.texts
    left, bottom = first.get_bbox_patch().get_window_extent().min
    corner = axes.transData.transform((19.5, 39.5))
    assert np.abs(corner - (left, bottom)).max() < 3
    assert len(axes.lines) >= 1
    for line in axes.lines:
        assert line.get_xydata()[1].tolist() == pytest.approx([19.5, 39.5])
