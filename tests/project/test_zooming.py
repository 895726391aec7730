"""The benchmark of one question with a crop from a large raster, on a small one."""

from benchmarks.data import rasters, zooming


def test_a_question_with_a_crop_is_measured(tmp_path):
    path = tmp_path / "small.tif"
    rasters.make(path, 900, 700, compress="deflate")
    found = zooming.measured(str(path))
    assert 0 < found["model"] < found["wall"] and found["MiB"] >= 0


def test_the_region_lies_near_the_lower_right_corner():
    assert zooming.region(26176, 24832) == [0.98 * 26176 - 2000, 0.98 * 24832 - 2000, 0.98 * 26176, 0.98 * 24832]
    assert zooming.region(900, 600) == [882 - 200, 588 - 200, 882, 588]
