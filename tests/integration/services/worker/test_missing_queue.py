"""A worker whose DARKROOM_QUEUES has a misspelt queue says so: no work would ever come from it."""

from tests.support.stack import Stack


def test_a_queue_that_does_not_exist_is_named(stack: Stack) -> None:
    with stack.process("worker", DARKROOM_QUEUES="default,misspelt") as process:
        process.wait_for("DARKROOM_QUEUES: queue 'misspelt' does not exist; there are: ")
        process.wait_for("darkroom queues add misspelt")
        assert "queue 'default'" not in process.log.read_text()
