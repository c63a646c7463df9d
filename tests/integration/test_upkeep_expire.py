"""What expires, and what does not."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.gateway.upkeep import Site
from services.gateway.upkeep.expire import Ages, expire
from shared.taskdir import AttemptKey, claim
from tests.support.gateway import Client, Gateway, gateway
from tests.support.upkeep import MemorySite, grow_old

ALL = Ages(-1, 3600)  # when a folder was changed last cannot be set: every one counts as old enough
NONE = Ages(86400, 86400)


@pytest.fixture
async def site(mongo_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway whose reconciler sweeps nothing meanwhile."""
    async with gateway(mongo_url, tmp_path, reconcile_every_s=3600) as running:
        yield running


@pytest.fixture
async def care(site: Gateway, mongo_url: str) -> AsyncIterator[Site]:
    care = MemorySite(site, mongo_url)
    yield care
    care.store.close()


async def counts(care: Site, ages: Ages, *, dry_run: bool = False) -> dict[str, tuple[int, int]]:
    return {one.kind: (one.number, one.size_bytes) for one in await expire(care, ages, dry_run=dry_run) if one.number}


async def test_old_things_go_and_the_rest_stays(site: Gateway, ann: Client, care: Site) -> None:
    done, working = await ann.new_task(b"pixels"), await ann.new_task(b"pixels")
    await ann.ok("POST", f"/tasks/{done}/process/", json={"steps": ["inspect"]})
    await ann.ended(done)
    site.worker.hold = {"inspect"}
    await ann.ok("POST", f"/tasks/{working}/process/", json={"steps": ["inspect"]})
    run = site.worker.seen[-1].run_id
    await expire(care, ALL)  # what these have set aside

    attempts = []
    for task, run_id in ((done, "old"), (working, run)):
        attempt = claim(care.root.task(task), AttemptKey(run_id, "inspect", 1))
        (attempt.work / "big.fits").write_bytes(b"x" * 1000)
        attempts.append(attempt)
    lease = (attempts[0].work.parent / "lease").stat().st_size
    care.root.incoming().write_bytes(b"x" * 70)
    aside = site.data_dir / "aside"
    aside.mkdir()
    (aside / "a").write_bytes(b"x" * 500)
    care.root.trash(aside)
    cache = site.data_dir / "cache/preview"
    cache.mkdir(parents=True)
    for name, age_s in (("old.jpg", 7200), ("new.jpg", 0), (".part", 7200)):
        (cache / name).write_bytes(b"x" * 30)
        grow_old(cache / name, age_s)

    expected = {
        "set aside": (1, 500),
        "unfinished uploads": (1, 70),
        "unfinished pictures and answers": (1, 30),
        "cache": (1, 30),
        "scratch of runs that are over": (1, 1000 + lease),
    }
    assert await counts(care, NONE) == {}
    assert await counts(care, ALL, dry_run=True) == expected
    assert await counts(care, ALL) == expected
    assert await counts(care, ALL) == {}
    assert [path.name for path in cache.iterdir()] == ["new.jpg"]
    assert attempts[1].held()
    assert not attempts[0].held()
    assert set(await names(ann, done)) == {"image.fits", "inspect.log", "mask.fits"}
    for attempt in attempts:
        attempt.close()


async def test_results_that_nobody_swept(site: Gateway, ann: Client, care: Site) -> None:
    task = await ann.new_task(b"pixels")
    await ann.ok("POST", f"/tasks/{task}/process/", json={"steps": ["inspect", "photometry"]})
    await ann.ended(task)
    hidden = site.data_dir / f"tasks/{task}/.results/0000000001-04-photometry"
    hidden.mkdir()
    (hidden / "objects.vot").write_bytes(b"x" * 123)
    assert (await counts(care, NONE))["results that later ones hide"] == (1, 123)
    assert not hidden.exists()
    assert "objects.parquet" in await names(ann, task)


async def names(client: Client, task: int) -> list[str]:
    return [row["name"] for row in await client.ok("GET", f"/tasks/{task}/files/")]
