"""JSON as people write it: arrays, documents of many lines, and lines that a strict parser refuses."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import read, texts, write

from sentiment_model.config import ReviewFiles
from sentiment_model.errors import SourceError
from sentiment_model.sources.files import read_batches
from sentiment_model.sources.json_documents import read_documents
from sentiment_model.sources.listing import list_files
from sentiment_model.text.reviews import Fault

RECORDS = [{"text": "A wonderful, [long] film", "n": 1}, {"text": 'Say "no"\n', "n": None}, {"text": "최고", "n": [{}]}]
SHAPES = {
    "a line": json.dumps(RECORDS),
    "pretty": json.dumps(RECORDS, indent=2),
    "an item a line": "[\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]\n",
    "after a mark": "\ufeff\n " + json.dumps(RECORDS),
    "appended arrays": "".join(json.dumps([record]) + "\n" for record in RECORDS),
    "pretty objects": "\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "pretty objects with commas": ",\n".join(json.dumps(record, indent=1) for record in RECORDS),
    "objects in one line": "".join(map(json.dumps, RECORDS)),
    "lines with commas": "".join(json.dumps(record) + ",\r\n" for record in RECORDS),
    "lines with marks": "".join("\ufeff" + json.dumps(record) + "\n" for record in RECORDS),
    "Python's": "".join(f"{record}\n" for record in RECORDS),
    "Python's with commas": "".join(f"{record},\n" for record in RECORDS),
    "Python's list": str(RECORDS),
    "Python's list, an item a line": "[" + ",\n ".join(map(str, RECORDS)) + "]\n",
    "commas before brackets in an array": json.dumps(RECORDS, indent=1).replace("\n }", ",\n }") + "\n",
    "commas before brackets": "".join(json.dumps(record).replace("}", ", }") + "\n" for record in RECORDS[:2])
    + json.dumps(RECORDS[2]),
}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_records(tmp_path: Path, shape: str, name: str) -> None:
    path = write(tmp_path / name, SHAPES[shape])
    assert texts(path) == [record["text"] for record in RECORDS]
    config = ReviewFiles(path=str(path))
    (batch,) = read_batches(list_files(config).files[0], config, 100)
    assert batch.frame["n"].to_list() == ["1", None, "[{}]"]


def test_numbers_that_are_none_cost_no_review(tmp_path: Path) -> None:
    lines = ['{"text": "good", "n": NaN}', '{"text": "bad", "n": -Infinity}', '{"text": NaN, "n": 1}']
    found, reasons = read(write(tmp_path / "a.jsonl", "\n".join([*lines, "{'text': 'fine', 'n': nan}"])))
    assert found == {1: "good", 2: "bad", 4: "fine"}
    assert reasons == {3: "missing_text"}


def test_control_characters_and_halves_of_emoji_cost_no_review(tmp_path: Path) -> None:
    lines = [
        b'{"text": "a\ttab"}',
        b'{"text": "half \\ud83d"}',
        b'{"text": "half \\ude00"}',
        b'{"text": "\\ud83d\\ude00"}',
    ]
    assert texts(write(tmp_path / "a.jsonl", b"\n".join(lines))) == ["a\ttab", "half \ufffd", "half \ufffd", "😀"]
    assert texts(write(tmp_path / "b.json", b"[" + b",\n".join(lines) + b"]"))[1:] == [
        "half \ufffd",
        "half \ufffd",
        "😀",
    ]


def test_a_broken_item_of_an_array_costs_itself(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        '[{"text": "one"}, {"text": oops}, {"text": "three"},\n{"text": "four" "x"},\n{"text": "5"}, 6]',
    )
    found, reasons = read(path)
    assert found == {1: "one", 3: "three", 5: "5"}
    assert reasons == {2: "broken_json", 4: "broken_json", 6: "broken_json"}


def test_an_array_that_is_cut_off_says_so(tmp_path: Path) -> None:
    found, reasons = read(write(tmp_path / "a.json", '[{"text": "one"},\n{"text": "two"}, {"text": "thr'))
    assert found == {1: "one", 2: "two"}
    assert reasons == {3: "broken_json"}


def test_what_is_no_json_is_one_fault_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"most of the first records of a.jsonl cannot be read, 3 of 4.*'text,n'"):
        read(write(tmp_path / "a.jsonl", 'text,n\ngood,1\nbad,2\n{"text": "fine"}\n'))


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=30) | st.integers() | st.none(), max_size=4)),
    st.sampled_from([None, 1]),
    st.integers(1, 50),
)
def test_pieces_of_any_size_give_the_same_documents(
    records: list[dict[str, str | int | None]], indent: int | None, size: int
) -> None:
    records = json.loads(json.dumps(records))
    content = json.dumps(records, indent=indent, ensure_ascii=False).encode(errors="replace")
    pieces = (content[start : start + size] for start in range(0, len(content), size))
    found = [item[0] for item in read_documents(iter(pieces), 1000) if not isinstance(item, Fault)]
    assert found == json.loads(content.decode())


@given(st.text(alphabet='[]{},:"\\ \nantu1e', max_size=80))
def test_any_text_ends(content: str) -> None:
    items = list(read_documents(iter([content.encode()]), 20))
    assert len(items) <= len(content)


def test_objects_on_one_line_are_read_however_many(tmp_path: Path) -> None:
    """As Firehose writes them: longer than a line may be, and one that is broken costs itself."""
    one = json.dumps({"text": "good " * 30})
    path = write(tmp_path / "a.jsonl", one * 2 + '{"text": oops}' + one * 120_000)
    config = ReviewFiles(path=str(path))
    batches = list(read_batches(list_files(config).files[0], config, 50_000))
    assert len(batches) == 3, "batches are as large as was asked for"
    assert [sum(len(batch.frame) for batch in batches), sum(len(batch.rejects) for batch in batches)] == [120_002, 1]
    lines = '{"text": "one"}\n' + one * 50_000 + "\n"
    config = ReviewFiles(path=str(write(tmp_path / "b.jsonl", lines)))
    assert len(list(read_batches(list_files(config).files[0], config, 30_000))) == 2


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": oops' + "\n" * 500_000 + "]",
        '{"a": ' + '"\\"' + '\\"' * 500_000,
        '{"a": ' + '"a' * 500_000,
        '{"a": ' + ", " * 500_000,
        "[" + '{"a":' * 100_000,
        "[" * 500_000,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_what_never_ends_is_given_up_in_time(tmp_path: Path, content: str) -> None:
    texts, reasons = read(write(tmp_path / "a.json", content))
    assert not texts
    assert set(reasons.values()) <= {"broken_json"}


@pytest.mark.parametrize("depth", [100, 470, 600, 980, 5000])
@pytest.mark.parametrize("half", ["", "\\ud83d"])
def test_deep_values_cost_their_own_record(tmp_path: Path, depth: int, half: str) -> None:
    deep = '{"text": "deep' + half + '", "x": ' + '{"a":' * depth + "1" + "}" * depth + "}"
    for name, content in {"a.json": f'[{deep},\n{{"text": "two"}}]', "a.jsonl": f'{deep}\n{{"text": "two"}}'}.items():
        found, reasons = read(write(tmp_path / name, content))
        assert list(found.values())[-1] == "two"
        assert set(reasons.values()) <= {"broken_json"}


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_inside_an_object_is_named(tmp_path: Path, indent: int | None) -> None:
    path = write(tmp_path / "a.json", json.dumps({"cursor": "x", "reviews": RECORDS}, indent=indent))
    with pytest.raises(
        SourceError, match=r"a.json has no column 'text'.* 'reviews' holds a list of objects: write each"
    ):
        read(path)
