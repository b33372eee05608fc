"""The log of a table of scores: checkpoints say what the log says, and save reading it."""

import random
import threading
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from sentiment_model.errors import StoreError
from sentiment_model.scoring import ledger as ledger_module
from sentiment_model.scoring.ledger import Ledger
from sentiment_model.scoring.planning import Inbox, Planned
from sentiment_model.scoring.shards import Piece, Shard, halves
from sentiment_model.scoring.table import Plan, PublishedFile, Receipt, ScoreTable
from sentiment_model.scoring.work import Work
from sentiment_model.store.objects import Objects


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScoreTable:
    monkeypatch.setattr(ledger_module, "PLANS_PER_CHECKPOINT", 5)
    return ScoreTable(str(tmp_path / "table"), "k")


def shard_of(*files: str) -> Shard:
    return Shard(name=files[0], pieces=tuple(Piece(file=file, name=f"{file}.csv") for file in files))


def scored(shard: Shard) -> Receipt:
    path = f"scores/version=1/date=2026-01-01/k-{shard.id}-000.parquet"
    file = PublishedFile(path=path, staged="", role="scores", rows=len(shard.pieces), bytes=1, sha256="")
    return Receipt(shard=shard.id, files=[file], counts={"scored": len(shard.pieces)})


def grow(table: ScoreTable, runs: int, *, checkpoints: bool = True) -> list[str]:
    """Let runs come and go: of their shards most are scored, others cancelled, unusable, or left for a later run."""
    chance = random.Random(3)
    files: list[str] = []
    for run in range(runs):
        ledger = Ledger(table)
        new = [shard_of(*(f"{run}-{shard}-{n}" for n in range(chance.choice([1, 4])))) for shard in range(3)]
        files += [piece.file for shard in new for piece in shard.pieces]
        assert table.append(Plan(shards=[*ledger.to_plan_anew(), *new]), ledger.plans)
        ledger.update()
        for shard in ledger.pending(files):
            match chance.choice(["scored", "scored", "scored", "left", "unusable", "cancelled"]):
                case "scored":
                    table._decide(scored(shard))
                case "cancelled" if len(shard.pieces) > 1:
                    table.cancel(shard.id)
                case "unusable":
                    table.reject(shard.id, "broken")
        ledger.update()
        ledger.write_manifest(f"run {run}")
        if checkpoints:
            ledger.write_checkpoint()
    return files


def said(ledger: Ledger, files: list[str]) -> tuple[object, ...]:
    return (
        ledger.plans,
        ledger.unplanned([*files, "unheard of"]),
        sorted(shard.id for shard in ledger.pending(files)),
        sorted(shard.id for shard in ledger.to_plan_anew()),
        ledger.unusable(files),
        sorted(receipt.model_dump_json() for receipt in ledger.scored(files)),
    )


def test_a_checkpoint_says_what_the_log_says(table: ScoreTable) -> None:
    files = grow(table, 23)
    checkpoints = sorted(Path(table.url, table.log, "checkpoints").iterdir())
    assert [path.name[:6] for path in checkpoints] == ["000015", "000020"]
    for some in (files, files[::7], files[:1], []):
        with_checkpoint = said(Ledger(table), some)
        for path in checkpoints:
            path.rename(path.with_suffix(".away"))
        without = said(Ledger(table), some)
        for path in checkpoints:
            path.with_suffix(".away").rename(path)
        assert with_checkpoint == without
    assert with_checkpoint[1] == ["unheard of"]
    everything = said(Ledger(table), files)
    assert all(everything[2:]), "some outcome never came; the test shows nothing"


def test_a_checkpoint_saves_reading(table: ScoreTable, monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(what: Callable[[], object]) -> int:
        paths: list[str] = []
        read = Objects.read
        with monkeypatch.context() as patch:
            patch.setattr(Objects, "read", lambda self, path: paths.append(path) or read(self, path))
            what()
        return len(paths)

    files: list[str] = []
    for run in range(40):
        ledger = Ledger(table)
        shard = shard_of(f"{run}")
        files.append(f"{run}")
        table.append(Plan(shards=[shard]), ledger.plans)
        table._decide(scored(shard))
        ledger.update()
        ledger.write_manifest("run")
        ledger.write_checkpoint()
    assert reads(lambda: said(Ledger(table), files)) <= 1 + 2 * 5 + 5 + 2
    assert sum(receipt.counts["scored"] for receipt in Ledger(table).scored(files)) == 40


def test_plans_are_read_many_at_once(table: ScoreTable, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        table.append(Plan(shards=[shard_of(f"{number}")]), number)
    together = threading.Barrier(16, timeout=60)
    read = ScoreTable.plan

    def waiting_for_others(self: ScoreTable, number: int) -> Plan | None:
        if 15 <= number < 31:  # after 1, 2, 4 and 8
            together.wait()
        return read(self, number)

    monkeypatch.setattr(ScoreTable, "plan", waiting_for_others)
    assert Ledger(table).plans == 40


def listed(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> list[str]:
    folders: list[str] = []
    list_all = Objects.list
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "list", lambda self, folder: folders.append(folder) or list_all(self, folder))
        what()
    return folders


@pytest.mark.parametrize(("page", "lists"), [(100, True), (10, False)])
def test_receipts_are_listed_where_that_takes_fewer_answers(
    page: int, lists: bool, table: ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_READERS", 10)
    monkeypatch.setattr(ledger_module, "_PAGE", page)
    shards = [shard_of(f"{number}") for number in range(60)]
    table.append(Plan(shards=shards), 0)
    for shard in shards[::2]:
        table._decide(scored(shard))
    folders = listed(monkeypatch, lambda: said(Ledger(table), []))
    assert (f"{table.log}/receipts" in folders) == lists
    assert Ledger(table).pending([f"{number}" for number in range(60)]) == shards[1::2]


def test_only_folders_with_scores_of_a_run_are_listed(table: ScoreTable, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "scores/version=1/date=2026-01-0"
    files = [
        PublishedFile(path=f"{folder}{day}/{day}.parquet", staged="", role="scores", rows=1, bytes=1, sha256="")
        for day in (1, 2, 3, 4)
    ]
    for file in files[1:]:
        table.objects.create(file.path, b"")
    receipts = [Receipt(shard=file.path, files=[file]) for file in files[:3]]
    found: set[str] = set()
    folders = listed(monkeypatch, lambda: found.update(table.published(receipts)))
    assert sorted(folders) == [f"{folder}{day}" for day in (1, 2, 3)]
    assert found == {file.path for file in files[1:3]}
    assert listed(monkeypatch, lambda: table.published([])) == []


def test_what_has_no_file_is_not_looked_at_again_for_a_manifest(table: ScoreTable) -> None:
    shards = [shard_of(f"{number}") for number in range(5)]
    for number, shard in enumerate(shards):
        table.append(Plan(shards=[shard]), number)
        table._decide(scored(shard).model_copy(update={"files": []}))
    ledger = Ledger(table)
    ledger.write_manifest("run")
    ledger.write_checkpoint()
    (path,) = Path(table.url, table.log, "checkpoints").iterdir()
    assert pl.read_parquet(path)["in_manifest"].to_list() == [True] * 5


def test_a_run_without_files_leaves_a_checkpoint_too(table: ScoreTable) -> None:
    grow(table, 7, checkpoints=False)
    Work(Inbox({}, {}, "there are no files"), table, lambda _: Planned({}, {}, 0)).finish("run")
    assert [path.name[:6] for path in Path(table.url, table.log, "checkpoints").iterdir()] == ["000007"]


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_manifest_names_what_no_other_has_named(table: ScoreTable, checkpoints: bool) -> None:
    files = grow(table, 12, checkpoints=checkpoints)
    manifests = []
    while manifest := table.manifest(len(manifests)):
        manifests.append(manifest)
    named = [shard for manifest in manifests for shard in manifest.shards]
    assert len(manifests) > 5
    assert sorted(named) == sorted(receipt.shard for receipt in Ledger(table).scored(files))
    assert len(named) == len(set(named))


def test_two_runs_that_end_at_once_name_each_file_once(table: ScoreTable) -> None:
    files = [f"{number}" for number in range(4)]
    shards = [shard_of(file) for file in files]
    table.append(Plan(shards=shards), 0)
    first, second = Ledger(table), Ledger(table)
    receipts = [table._decide(scored(shard)) for shard in shards]
    first.update(receipts[:3])
    second.update(receipts)
    first.write_manifest("first")
    second.write_manifest("second")
    manifests = [table.manifest(0), table.manifest(1), table.manifest(2)]
    assert [len(manifest.files) if manifest else None for manifest in manifests] == [4, None, None]


def test_a_shard_keeps_its_id_when_a_piece_learns_to_say_more() -> None:
    class Later(Piece):
        colour: str = "blue"

    pieces = (Piece(file="a", name="a.csv"), Piece(file="b", name="b.csv"))
    shard = Shard(name="x", pieces=pieces)
    later = Shard.model_construct(name="y", pieces=tuple(Later(**piece.model_dump()) for piece in pieces))
    assert later.id == shard.id
    ids = {
        Shard(name="x", pieces=(piece,)).id
        for piece in (
            Piece(file="a", name="a"),
            Piece(file="a", name="a", row_groups=(0, 1)),
            Piece(file="a", name="a", row_groups=(1, 2), first_row=5),
            Piece(file="a", name="a", part=0),
            Piece(file="a", name="a", part=1),
            Piece(file="a", name="a", rejects=True),
        )
    }
    assert len(ids) == 6
    assert [half.pieces for half in halves(shard)] == [pieces[:1], pieces[1:]]


@pytest.mark.parametrize("kind", ["plans", "receipts", "manifests", "claims/s"])
@pytest.mark.parametrize("content", [b'{"format": 99}', b"{"])
def test_a_log_of_another_version_is_refused(table: ScoreTable, kind: str, content: bytes) -> None:
    shard = shard_of("a")
    if kind == "receipts":
        table.append(Plan(shards=[shard]), 0)
    name = {"plans": "000000", "manifests": "000000", "receipts": shard.id, "claims/s": "000001"}[kind]
    table.objects.create(f"{table.log}/{kind}/{name}.json", content)
    with pytest.raises(StoreError, match=rf"{kind}/{name}\.json is damaged, or was written by another version"):
        table._claims("s").last() if kind == "claims/s" else Ledger(table)
