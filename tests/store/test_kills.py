"""Real kills, and several processes at once. Torch is imported once for each of these tests."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("killed.py")


def run(what: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), what, str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kill_before_any_call_that_changes_the_disk_costs_at_most_a_shard(tmp_path: Path) -> None:
    steps, deaths = map(int, re.findall(r"\d+", run("step", tmp_path)))
    assert steps >= 4 * 9  # the manifest and 8 shards: write, to the disk, rename, the folder to the disk
    assert deaths >= 6


def test_a_kill_while_it_works_is_gone_on_from(tmp_path: Path) -> None:
    seen = list(map(int, re.findall(r"\d+", run("moment", tmp_path))))
    assert seen == sorted(seen)
    assert seen[0] >= 1
    assert seen[-1] < 8  # or nothing was killed


def test_processes_fill_a_store_together(tmp_path: Path) -> None:
    assert run("together", tmp_path).split("\n") == ["ranks complete", "strangers complete", ""]
