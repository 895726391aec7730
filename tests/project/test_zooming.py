"""The benchmarks of benchmarks/data that ask a model about a large raster, and of detection, on small inputs."""

from benchmarks.data import detecting, rasters, zooming


def test_a_question_with_a_crop_is_measured(tmp_path):
    path = tmp_path / "small.tif"
    rasters.make(path, 900, 700, compress="deflate")
    found = zooming.measured(str(path))
    assert 0 < found["model"] < found["wall"] and found["MiB"] >= 0


def test_the_region_lies_near_the_lower_right_corner():
    assert zooming.region(26176, 24832) == [0.98 * 26176 - 2000, 0.98 * 24832 - 2000, 0.98 * 26176, 0.98 * 24832]
    assert zooming.region(900, 600) == [882 - 200, 588 - 200, 882, 588]


def test_detections_hot_paths_are_measured(capsys, monkeypatch):
    """On a few small answers; both ways of suppressing leave the same objects, or the benchmark ends."""
    monkeypatch.setattr(detecting, "OBJECTS", 5)
    monkeypatch.setattr(
        "sys.argv", ["detecting", "--answers", "2", "--pictures", "3", "--objects", "20", "--repeats", "1"]
    )
    detecting.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4 + 2 + 1 and all(line.startswith("| ") and line.endswith(" |") for line in lines)
