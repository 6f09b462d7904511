import math

import pytest

from nosnja_gui.dataset import buckets


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (768, 64), (1024, 64), (128, 32), (64, 8), (512, 8), (640, 128)])
def test_buckets_are_multiples_of_the_step_of_about_the_same_area(resolution, step):
    sizes = buckets.buckets(resolution, step)
    assert (resolution, resolution) in sizes and len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width % step == 0 and height % step == 0
        assert resolution**2 - max(width, height) * step < width * height <= resolution**2
        assert max(width, height) <= 2 * min(width, height)
        assert (height, width) in sizes


def test_a_step_wider_than_the_picture_still_gives_a_square():
    assert buckets.buckets(64, 256) == [(64, 64)]
    assert buckets.buckets(100, 64) == [(64, 64)]


def test_the_nearest_shape_is_taken():
    assert buckets.assign(3000, 3000, 512, 64) == (512, 512)
    assert buckets.assign(2000, 3000, 512, 64) == (384, 640)
    assert buckets.assign(3000, 2000, 512, 64) == (640, 384)
    assert buckets.assign(3000, 2400, 512, 64) == (576, 448)
    assert buckets.assign(100, 10_000, 512, 64) == (384, 640)
    assert buckets.assign(2000, 3000, 512, 64, enabled=False) == (512, 512)


def test_no_other_bucket_is_nearer_by_log_aspect():
    for width in range(100, 2000, 37):
        chosen = buckets.assign(width, 700, 1024, 64)
        off = [abs(math.log(w / h) - math.log(width / 700)) for w, h in buckets.buckets(1024, 64)]
        assert abs(math.log(chosen[0] / chosen[1]) - math.log(width / 700)) == min(off)


def test_enlarging_and_cropping_are_said():
    assert buckets.scale(256, 256, (512, 512)) == 2
    assert buckets.cropped_share(1000, 500, (512, 512)) == pytest.approx(0.5)
    said = buckets.notes([("small.png", 256, 256), ("long.png", 4000, 600), ("good.png", 1024, 1024)], 512, 64)
    assert said == [
        "1 picture is smaller than the training size and enlarged up to 2.0 times: small.png.",
        "1 picture is cropped by a third or more: long.png.",
    ]
    assert buckets.notes([("good.png", 600, 700)], 512, 64) == []
