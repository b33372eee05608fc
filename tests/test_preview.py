"""The preview shows at a glance what the most common mistakes do."""

from pathlib import Path

import pytest
from reading import write

from sentiment_model.config import IngestConfig, LabelledColumns, ReviewFiles
from sentiment_model.errors import SourceError
from sentiment_model.sources.preview import preview


def ingest(path: Path, **options: object) -> IngestConfig:
    columns = LabelledColumns(rating="stars")
    return IngestConfig.model_validate({"source": "files", "path": str(path), "columns": columns, **options})


def test_what_is_read_as_what_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id;text;stars\n1;Great film, loved it;5\n2;Awful;1\n3;So so;3\n4;;5\n")
    shown = preview(ingest(path))
    assert "## a.csv" in shown
    assert "text, semicolons between fields; rows read here: 4" in shown
    assert "| id |  | 1 / 2 / 3 |" in shown
    assert "| text | **text** | Great film, loved it / Awful / So so |" in shown
    assert "| stars | **rating** | 5 / 1 / 3 |" in shown
    assert "Labels: negative 1, positive 1; left out 1. Ratings: 1 (1), 5 (1)." in shown
    assert r"**Quarantine:** empty\_text 1, first in row 4: nothing but white space" in shown


def test_a_wrong_text_column_shows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,body\nGreat,I loved this film very much\nAwful,It was a bad film for us\n")
    assert "**Is the column right?** body holds longer texts, half of over 2" in preview(ReviewFiles(path=str(path)))
    assert "Is the column right?" not in preview(
        ReviewFiles.model_validate({"path": str(path), "columns": {"text": "body"}})
    )
    missing = preview(ReviewFiles.model_validate({"path": str(path), "columns": {"text": "review"}}))
    assert "**This stops a run:** text column missing: a.csv has no column 'review', it has 'text', 'body'" in missing


def test_a_wrong_scale_shows(tmp_path: Path) -> None:
    rows = "".join(f"film {n},{n % 10 + 1}\n" for n in range(50))
    shown = preview(ingest(write(tmp_path / "a.csv", f"text,stars\n{rows}")))
    assert "--ingest.ratings 1-4,7-10" in shown


def test_a_wrong_way_of_writing_shows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,text\n" + "1,a,b\n" * 5)
    assert "**This stops a run:** most of the first rows of a.csv" in preview(ReviewFiles(path=str(path)))
    path = write(tmp_path / "b.csv", "id,text\n1,café\n".encode("cp1252"))
    shown = preview(ReviewFiles(path=str(path)))
    assert "--files.encoding (to train, --ingest.encoding) names another encoding" in shown
    assert "**This fails a run:** 1 of 1 rows cannot be scored, where max_bad_share is 5.0%" in shown


def test_each_file_is_shown_and_the_first_rows_of_it_only(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / f"{number:02}.jsonl", '{"text": "good"}\n' * 1500)
    write(tmp_path / "notes.docx", "x")
    shown = preview(ReviewFiles(path=str(tmp_path)))
    assert shown.count("JSON Lines; rows read here: 1,000") == 10
    assert "And 2 more files." in shown
    assert "1 file passed over: 1 ending in .docx (notes.docx)." in shown
    assert "no rows" in preview(ReviewFiles(path=str(write(tmp_path / "empty.csv", "text\n"))))
    with pytest.raises(SourceError, match="there is no file"):
        preview(ReviewFiles(path=str(tmp_path / "gone.csv")))


def test_what_a_file_holds_does_nothing_in_the_preview(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,"<b>x</b>|y"\n"![](https://example.com/x.png) | [a](b)",<script>\n')
    shown = preview(ReviewFiles(path=str(path)))
    assert "<script>" not in shown
    assert "![](" not in shown
    assert "|y" not in shown.replace("\\|y", "")
