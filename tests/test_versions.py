"""What another version of the project has stored is refused with a word on what to do, and not taken for damage."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_bundle

from flows.train import _rival
from sentiment_model.errors import ModelError, StoreError
from sentiment_model.models.bundle import DESCRIPTION, FORMAT, ModelDescription
from sentiment_model.models.drift import add, bins
from sentiment_model.registry.tracking import Tracker
from sentiment_model.scoring.counts import total
from sentiment_model.scoring.table import Receipt
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import DatasetWriter, Store
from sentiment_model.training.checkpoint import load_checkpoint, save_checkpoint
from sentiment_model.training.job import TRAIN

COUNTS = {name: (1,) * size for name, size in bins(2).items()}
OTHER_BINS = {**COUNTS, "probability": (1,) * 49}


@pytest.mark.parametrize("written", [3, FORMAT + 1])
def test_a_model_of_another_format(tmp_path: Path, written: int) -> None:
    tiny_bundle(tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_bytes())
    (tmp_path / DESCRIPTION).write_text(json.dumps({**description, "format": written}))
    said = rf"\(format {written}, where this one reads {FORMAT}\); train the model again, or install the version that"
    with pytest.raises(ModelError, match=said):
        ModelDescription.read(tmp_path)
    # So it is where the other fields differ too.
    (tmp_path / DESCRIPTION).write_text(json.dumps({"format": written, "layers": []}))
    with pytest.raises(ModelError, match=said):
        ModelDescription.read(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 6}'])
def test_a_damaged_description_is_not_taken_for_another_format(tmp_path: Path, content: str) -> None:
    (tmp_path / DESCRIPTION).write_text(content)
    with pytest.raises(ModelError, match=r"model\.json is damaged; register the model again"):
        ModelDescription.read(tmp_path)


def test_a_model_whose_reference_has_other_bins(tmp_path: Path) -> None:
    assert tiny_bundle(tmp_path, reference=COUNTS) == ModelDescription.read(tmp_path)
    tiny_bundle(tmp_path, reference=OTHER_BINS)
    with pytest.raises(ModelError, match=r"49 bins of probability, where this one reads 50\); train the model again"):
        ModelDescription.read(tmp_path)


def test_scores_that_were_counted_in_other_bins() -> None:
    for pair in ((COUNTS, OTHER_BINS), (OTHER_BINS, {}), ({}, OTHER_BINS)):
        with pytest.raises(StoreError, match=r"49 bins of probability, where this one reads 50\); score them again"):
            add(*pair)
    with pytest.raises(StoreError, match="0 bins of tokens"):
        add(COUNTS, {name: counts for name, counts in COUNTS.items() if name != "tokens"})
    assert add(COUNTS, COUNTS) == {name: (2,) * len(counts) for name, counts in COUNTS.items()}


def test_receipts_that_were_counted_in_other_bins() -> None:
    receipts = [Receipt(shard=str(number), counts={"histograms": OTHER_BINS}) for number in range(2)]
    with pytest.raises(StoreError, match=r"49 bins of probability, where this one reads 50\); score them again"):
        total(receipts)


@pytest.mark.parametrize("header", [{}, {"format": "0"}])
def test_a_checkpoint_of_another_format(tmp_path: Path, header: dict[str, str]) -> None:
    path = tmp_path / "training.safetensors"
    save_checkpoint(path, {"network.bias": torch.ones(2)}, {"epoch": 1})
    saved = load_checkpoint(path)
    assert saved
    assert saved[1] == {"epoch": 1}
    save_file(saved[0], path, metadata={**header, "progress": '{"epoch": 1}'})
    found = header.get("format")
    with pytest.raises(ModelError, match=rf"\(format {found}, where this one reads 1\); delete it to start the train"):
        load_checkpoint(path)


def test_a_champion_that_cannot_be_read_is_named(settings_in: Path, tmp_path: Path) -> None:
    settings = Settings()
    tracker = Tracker(settings)

    def write(writer: DatasetWriter) -> dict[str, int]:
        tiny_bundle(writer.folder)
        for file in writer.folder.iterdir():
            writer.file(file.name)
        return {}

    model, _ = Store(settings.store_url).materialise(TRAIN, {}, {}, write)
    tiny_bundle(settings_in / "old", seed=1)
    run_id = tracker.start_run("sentiment", "fp", name="test", params={}, tags={}).run_id
    tracker.registry.register(settings_in / "old", "sentiment", run_id, promote=True, tags={})
    (registered,) = (settings_in / "artifacts").rglob(DESCRIPTION)
    registered.write_text(json.dumps({**json.loads(registered.read_bytes()), "format": 5}))
    with pytest.raises(ModelError, match=r"with version 1 of sentiment: .*format 5.*; or take the aliases champion"):
        _rival(tracker, "sentiment", model.ref, tmp_path)
