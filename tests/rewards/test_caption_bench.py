"""The benchmark of the rewards `caption`, `mask` and `union` runs, on small inputs."""

from benchmarks.data import captioning


def test_the_rewards_are_measured(capsys, monkeypatch):
    command = ["captioning", "--pairs", "5", "--sides", "32", "64", "--boxes", "3", "--repeats", "1"]
    monkeypatch.setattr("sys.argv", command)
    captioning.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4 + 2 * 3 + 1 and all(line.startswith("| ") and line.endswith(" |") for line in lines)
