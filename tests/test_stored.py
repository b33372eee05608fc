"""A model and a table of scores as version 0.1 stored them, on 2026-11-27 at commit 530220c, are read by this one."""

import gzip
import json
from pathlib import Path
from shutil import copytree

import polars as pl
import pytest
import torch
from bulk import run_on
from prefect.utilities.importtools import from_qualified_name

from sentiment_model.models.bundle import WEIGHTS, Predictor
from sentiment_model.scoring.counts import total
from sentiment_model.scoring.label import scoring_key
from sentiment_model.scoring.ledger import Ledger
from sentiment_model.scoring.table import ScoreTable
from sentiment_model.store.datasets import DatasetRef
from sentiment_model.text.scanner import Scanner

STORED = Path(__file__).with_name("stored")
ANSWERS = json.loads((STORED / "answers.json").read_text())


def test_a_stored_model_answers_as_it_did(tmp_path: Path) -> None:
    bundle = copytree(STORED / "bundle", tmp_path / "bundle")
    packed = bundle / f"{WEIGHTS}.gz"
    (bundle / WEIGHTS).write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    predictor = Predictor.load(bundle)
    assert predictor.digest == ANSWERS["digest"]
    found = predictor.predict(pl.Series(ANSWERS["texts"]))
    assert found["n_tokens"].to_list() == ANSWERS["n_tokens"]
    # Version 0.1 multiplied in bfloat16 where the processor can, and these answers are of such a one.
    assert found["probabilities"].arr.get(1).to_list() == pytest.approx(ANSWERS["probability"], abs=3e-4)
    exact = predictor.model.double()
    read = Scanner(predictor.vocabulary, predictor.description.max_tokens).read(pl.Series(ANSWERS["texts"]))
    with torch.inference_mode():
        parts = exact(*read.reviews.batch(torch.arange(len(found)), int(read.reviews.lengths.max())))
    exact_logits = parts.double().sum(dim=1).squeeze(1).tolist()
    assert found["logits"].arr.get(1).to_list() == pytest.approx(exact_logits, abs=1e-5)


def test_what_prefect_remembers_of_a_run_is_found_by_its_old_name() -> None:
    assert from_qualified_name("sentiment_model.store.DatasetRef") is DatasetRef


def test_a_stored_table_is_complete(tmp_path: Path) -> None:
    folder = copytree(STORED / "table", tmp_path / "table")
    (key,) = (path.name for path in (folder / "_log").iterdir())
    table = ScoreTable(str(folder), key)
    plan = table.plan(0)
    assert plan is not None
    files = {piece.file: piece.name for shard in plan.shards for piece in shard.pieces}
    assert sorted(files.values()) == ["bad.csv", "reviews.csv"]
    ledger = Ledger(table)
    assert (ledger.unplanned(files), ledger.pending(files), ledger.to_plan_anew()) == ([], [], [])
    assert list(ledger.unusable(files)) == ["bad.csv"]
    (receipt,) = ledger.scored(files)
    assert (total([receipt]).scored, total([receipt]).labels) == (5, {"negative": 0, "positive": 5})
    # Who runs it once more with the same model and options finds these scores, and does not make them again.
    assert scoring_key(run_on(folder), ANSWERS["digest"], "7", None) == key
    (path,) = table.paths([receipt])
    rows = pl.read_parquet(path, glob=False)
    assert rows["text"].to_list() == ANSWERS["texts"]
    assert rows["probability"].to_list() == pytest.approx(ANSWERS["probability"], abs=1e-6)
    ledger.write_manifest("another")
    assert table.manifest(1) is None  # which would name the rows twice
