"""A replica is promoted while images are settled: what was recorded stays, and the rest is recorded once."""

import threading
import time
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.database import connections
from services.dispatcher import planner
from services.job_queue import processes
from services.job_queue.outputs import Output
from services.job_queue.states import ProcessKind
from services.urls import parse_database_url
from services.worker.held_shards import HeldShard, HeldShards
from services.worker.settler import Settler
from tests.support.job_queue import claim
from tests.support.replica import promote, replica, with_failover
from tests.support.stack import Stack, fresh_stack

IMAGES = 1_600
RECORDED = text("SELECT index, sha256, created_at FROM outputs ORDER BY index")


def hold_job(stack: Stack, engine: Engine, shards: HeldShards) -> list[HeldShard]:
    with engine.connect() as connection:
        worker_id = processes.register(connection, ProcessKind.WORKER)
    stack.submit({"items": [{"class_label": 1}] * 4, "images_per_item": IMAGES // 4, "steps": 1})
    owner = stack.engine("migrator")
    (planning,) = claim(owner, worker_id, "plan")
    assert planner.plan_job(owner, stack.store(), planning) is None
    held = [HeldShard(lease) for lease in claim(owner, worker_id)]
    for shard in held:
        shard.unsettled = set(range(shard.lease.start, shard.lease.stop))
        shards.add(shard)
    return held


def read(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(RECORDED))


@pytest.mark.long
def test_a_promotion_loses_no_image_and_records_none_twice() -> None:
    with fresh_stack() as stack, replica(stack) as port:
        engine = connections.connect(parse_database_url(with_failover(stack.engine("worker").url, port)))
        shards = HeldShards(engine, on_removed=lambda: None)
        held = hold_job(stack, engine, shards)
        settler = Settler(shards)
        settler.start()

        def settle() -> None:
            for shard in held:
                for index in sorted(shard.unsettled):
                    settler.add(shard, Output(index, 0, index, f"k{index}", f"{index:064x}", 1, "p"))
                time.sleep(0.02)

        feeder = threading.Thread(target=settle)
        feeder.start()
        while len(before := read(engine)) < IMAGES // 4:
            time.sleep(0.01)
        promote(stack, port)
        assert len(before) < IMAGES
        feeder.join()
        settler.stop()
        after = read(engine)
        assert [row.index for row in after] == list(range(IMAGES))
        assert [row for row in after if row.index in {old.index for old in before}] == before
        with engine.connect() as connection:
            job = connection.execute(text("SELECT state, succeeded, failed FROM jobs")).one()
        assert job == ("finalizing", IMAGES, 0)
        engine.dispose()
