"""Stages of a local run are processes of their own, forked from one that has made their imports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

PIPELINE = """
import os
import sys

from kfp import dsl, local

from kfp_pipelines.running.stage_processes import fork_stages


@dsl.component(install_kfp_package=False)
def first(text: str) -> str:
    import os
    import sys

    print("first", text, os.getpid(), os.environ["GREETING"], "torch" in sys.modules, __file__)
    os.environ["LEFT"] = "behind"
    return text


@dsl.component(install_kfp_package=False)
def second(text: str, end: str):
    import os
    import signal
    import sys

    print("second", text, os.getpid(), os.environ.get("LEFT"), file=sys.stderr)
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "exits":
        sys.exit(3)
    if end == "raises":
        raise ValueError("no such thing")


@dsl.pipeline
def pipeline(end: str):
    one = first(text="größe").set_env_variable("GREETING", "hello").set_caching_options(False)
    second(text=one.output, end=end).set_caching_options(False)


if __name__ == "__main__":
    fork_stages()
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[1], raise_on_error=False)
    for end in sys.argv[2:]:
        print("parent", end, os.getpid(), flush=True)
        pipeline(end=end)
        sys.stderr.flush()
"""
ENDS = ("ends well", "killed", "exits", "raises")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each pipeline printed, by how its second stage ends."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "pipeline.py").write_text(PIPELINE)
    command = [sys.executable, "-u", "-W", "ignore", str(folder / "pipeline.py"), str(folder / "root"), *ENDS]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    parts = re.split(r"^parent ", done.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(ENDS, parts, strict=True))


def words(output: str, first: str) -> list[str]:
    """The words after the first of the only line that begins with it."""
    (line,) = (line for line in output.splitlines() if line.split()[:1] == [first])
    return line.split()[1:]


def test_each_stage_is_a_process_that_begins_with_the_imports(output: dict[str, str]) -> None:
    well = output["ends well"]
    text, pid, greeting, has_torch, source = words(well, "first")
    assert (text, greeting, has_torch) == ("größe", "hello", "True")
    assert not Path(source).exists(), "the source of a component is removed"
    _, other, left = words(well, "second")
    assert left == "None", "what a stage sets, no other sees"
    parent = well.splitlines()[0].split()[-1]
    assert len({parent, pid, other}) == 3
    assert well.count("finished with status \x1b[92mSUCCESS") == 3


@pytest.mark.parametrize("end", ["killed", "exits", "raises"])
def test_a_stage_that_ends_badly_fails(output: dict[str, str], end: str) -> None:
    assert re.search(r"Task \S*'second'\S* finished with status \S*FAILURE", output[end])
    assert ("no such thing" in output[end]) == (end == "raises")
