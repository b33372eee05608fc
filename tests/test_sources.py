"""The streaming readers: every record ends as a row or in quarantine, whatever the bytes."""

import contextlib
import csv
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sentiment_model.config import Columns, ReviewFiles
from sentiment_model.errors import NoReviewsError, SourceError
from sentiment_model.sources.files import read_batches, usable_text
from sentiment_model.sources.listing import list_files
from sentiment_model.text.reviews import QUARANTINE_SCHEMA

SAMPLES = Path(__file__).parent.parent / "data" / "samples"


def read(path, columns=None, batch_rows=1000, only=None, **options):
    """Return (row -> text of the usable records, row -> reason of the others) of one file."""
    config = ReviewFiles(columns=columns or Columns(), **options)
    (file,) = list_files(config.model_copy(update={"path": str(path)})).files
    texts, reasons = {}, {}
    for batch in read_batches(file, config, batch_rows, only):
        assert len(batch.frame) == len(batch.origin)
        batch, text = usable_text(batch, config)
        assert batch.rejects.schema == QUARANTINE_SCHEMA
        texts.update(zip(batch.origin["row"], text, strict=True))
        reasons.update(batch.rejects.select("row", "reason").iter_rows())
    assert not texts.keys() & reasons.keys()
    assert sorted([*texts, *reasons]) == list(range(1, len(texts) + len(reasons) + 1))
    return texts, reasons


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


NASTY = {
    "bomb.jsonl.gz": ([1, 3], {2: "line_too_long"}),
    "broken.jsonl": (
        [1, 5, 7, 12],
        {2: "broken_json", 3: "broken_json", 4: "broken_json", 6: "nested_text"}
        | {8: "missing_text", 9: "missing_text", 10: "empty_text", 11: "undecodable"},
    ),
    "byte-order-mark.tsv": ([1, 2], {}),
    "dictionary.parquet": ([1, 2, 3], {}),
    "duplicate-headers.csv": ([1, 2], {}),
    "empty.csv": ([], {}),
    "header-only.csv": ([], {}),
    "integers.parquet": ([1, 2], {}),
    "invalid-utf8.csv": ([1, 3], {2: "undecodable"}),
    "invalid-utf8.parquet": ([1, 3], {2: "undecodable"}),
    "large-string.parquet": ([1, 3], {2: "missing_text"}),
    "nul-bytes.csv": ([1, 2], {}),
    "scripts.jsonl": ([1, 2, 3, 4, 5, 6, 7], {}),
    "truncated.jsonl.gz": (list(range(1, 260)), {260: "truncated"}),
    "unbalanced-quotes.csv": (
        [1, 3, 4, 6],
        {2: "broken_csv", 5: "broken_csv", 7: "ragged_line", 8: "ragged_line", 9: "broken_csv"},
    ),
    "utf16-with-mark.csv": ([1, 2, 3], {}),
    "utf16-without-mark.jsonl": ([1, 2], {}),
}


def test_every_nasty_sample_is_listed():
    assert sorted(NASTY) == sorted(file.name for file in (SAMPLES / "nasty").iterdir())


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("batch_rows", [1, 1000])
@pytest.mark.parametrize("only", [None, ("text",)], ids=["all-columns", "text-only"])
def test_nasty_samples_end_as_rows_or_in_quarantine(name, batch_rows, only):
    texts, reasons = read(SAMPLES / "nasty" / name, batch_rows=batch_rows, only=only)
    assert (sorted(texts), reasons) == NASTY[name]


def test_text_of_nasty_samples_is_right():
    texts, _ = read(SAMPLES / "nasty" / "utf16-with-mark.csv")
    assert texts[2] == "评论：太无聊了。"
    assert texts[3] == "Two lines,\nyet one review 👍"
    texts, _ = read(SAMPLES / "nasty" / "unbalanced-quotes.csv")
    assert texts[4] == "An embedded\nnewline is fine."
    assert texts[6] == 'A stray " in the middle is harmless.'
    texts, _ = read(SAMPLES / "nasty" / "integers.parquet")
    assert texts == {1: "42", 2: "43"}
    texts, _ = read(SAMPLES / "nasty" / "duplicate-headers.csv")
    assert texts[1] == "The first text counts."


def test_tidy_samples_are_all_usable():
    files = list_files(ReviewFiles(path=str(SAMPLES / "tidy"))).files
    assert [file.format for file in files] == ["csv", "jsonl", "parquet"]
    for file in files:
        texts, reasons = read(file.location.path)
        assert len(texts) >= 12
        assert not reasons


def test_marks_of_missing_values_are_no_texts(tmp_path):
    texts = ["nan", " NULL ", "None", r"\N", "#NAME?", "n/a", "<NA>", "none of it works", "nap", "0"]
    path = write(tmp_path / "a.csv", "\n".join(["text", *texts]))
    usable = {8: "none of it works", 9: "nap", 10: "0"}
    assert read(path) == (usable, dict.fromkeys(range(1, 8), "missing_text"))
    assert read(path, missing_values=("0", "NAP"))[1] == {9: "missing_text", 10: "missing_text"}
    frame = pl.DataFrame({"text": [float("nan"), None, 1.5]})
    frame.write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ({3: "1.5"}, dict.fromkeys((1, 2), "missing_text"))


# Without backslashes, which are taken out where they escape something throughout.
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\"), max_size=60)
texts_and_ids = st.lists(st.tuples(any_text, any_text), min_size=1, max_size=20)


def expected(records):
    texts = {row: text for row, (text, _) in enumerate(records, 1) if pl.Series([text]).str.strip_chars()[0]}
    return texts, {row: "empty_text" for row in range(1, len(records) + 1) if row not in texts}


@settings(deadline=None)
@given(records=texts_and_ids, batch_rows=st.integers(1, 7), end=st.sampled_from(["\n", "\r\n"]))
def test_any_text_survives_csv(records, batch_rows, end):
    buffer = io.StringIO()
    # Python's writer leaves a carriage return unquoted where it is no part of the line's end.
    writer = csv.writer(buffer, lineterminator=end, quoting=csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL)
    writer.writerows([("text", "id"), *records])
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "a.csv"), buffer.getvalue())
        assert read(path, batch_rows=batch_rows, missing_values=()) == expected(records)


@settings(deadline=None)
@given(
    records=texts_and_ids,
    batch_rows=st.integers(1, 7),
    ascii_only=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_text_survives_json_lines(records, batch_rows, ascii_only, encoding):
    lines = [json.dumps({"text": text, "id": key}, ensure_ascii=ascii_only) + "\n" for text, key in records]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "a.jsonl"), "".join(lines).encode(encoding))
        assert read(path, batch_rows=batch_rows, missing_values=()) == expected(records)


@settings(deadline=None)
@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.csv.zst"]),
)
def test_any_bytes_end_as_rows_or_in_quarantine(content, name):
    with tempfile.TemporaryDirectory() as folder:
        header = b"" if "json" in name else b"text\n"
        if name.endswith(("gz", "zst")) and len(content) % 2:
            content, header = {"gz": gzip, "st": zstandard}[name[-2:]].compress(header + content), b""
        with contextlib.suppress(SourceError):  # the header cannot be read, or has no text column
            read(write(Path(folder, name), header + content))


@settings(deadline=None)
@given(lines=st.lists(st.text(st.sampled_from('ab,"\r'), max_size=12), max_size=12))
def test_csv_loses_no_line_to_bad_quotes(lines):
    """Reading goes on at the next line after the one that opened a quote for good."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "a.csv"), "text,id\n" + "\n".join([*lines, *["the end,1"] * 13]) + "\n")
        texts, _ = read(path)
    assert list(texts.values()).count("the end") >= 13


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_compression_changes_nothing(tmp_path, name, ending, compress):
    frame = pl.DataFrame({"text": [f"review {i}" for i in range(5000)], "n": range(5000)})
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[name[2:]](tmp_path / name)
    packed = write(tmp_path / (name + ending), compress((tmp_path / name).read_bytes()))
    texts, reasons = read(packed)
    assert texts == dict(enumerate(frame["text"], 1))
    assert not reasons


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_several_compressed_members_are_read_as_one(tmp_path, ending, compress):
    path = tmp_path / f"a.csv{ending}"
    write(path, compress(b"text\none\ntw") + compress(b"o\nthree\n"))
    assert read(path)[0] == {1: "one", 2: "two", 3: "three"}


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_damaged_compression_is_quarantined(tmp_path, ending, compress):
    whole = compress(b"text\n" + b"".join(b"review %d %d\n" % (i, i * i) for i in range(20_000)))
    texts, reasons = read(write(tmp_path / f"cut.csv{ending}", whole[: len(whole) // 2]))
    assert len(texts) > 1000
    assert list(reasons.values()) == ["truncated"]


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz", ".zip"])
def test_the_first_bytes_say_what_is_compressed(tmp_path, ending):
    plain = b'{"text": "not compressed at all"}\n'
    assert read(write(tmp_path / f"plain.jsonl{ending}", plain))[0] == {1: "not compressed at all"}
    assert read(write(tmp_path / f"other.jsonl{ending}", lzma.compress(plain)))[0] == {1: "not compressed at all"}
    with pytest.raises(
        SourceError, match=rf"noise.jsonl{ending} is not {ending[1:]}, as its name says: it begins with"
    ):
        read(write(tmp_path / f"noise.jsonl{ending}", b"\0noise"))


def test_utf16_that_cannot_be_decoded_is_quarantined(tmp_path):
    content = "text\nfine\nlone \ud83d surrogate\nfine too\ncut".encode("utf-16", "surrogatepass")
    texts, reasons = read(write(tmp_path / "a.csv", content[:-1]))
    assert texts == {1: "fine", 3: "fine too"}
    assert reasons == {2: "undecodable", 4: "undecodable"}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_batches_of_long_reviews_are_cut_short(tmp_path, name):
    frame = pl.DataFrame({"text": [f"{i:03d}" * 300_000 for i in range(100)]})
    write_as = {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}
    write_as[name[2:]](tmp_path / name)
    (file,) = list_files(ReviewFiles(path=str(tmp_path / name))).files
    sizes = [batch.frame.estimated_size() for batch in read_batches(file, ReviewFiles(), 1000, ("text",))]
    assert sum(sizes) >= 90_000_000
    assert max(sizes) < 40_000_000


def test_a_text_over_the_bound_is_quarantined(tmp_path):
    path = write(tmp_path / "a.csv", f'text,id\nfine,1\n"{"long" * 30}\nlines",2\nfine too,3\n')
    assert read(path, max_text_bytes=100) == ({1: "fine", 3: "fine too"}, {2: "text_too_long"})
    path = write(tmp_path / "ten-megabytes.jsonl", json.dumps({"text": "x" * 10_000_000}))
    assert read(path) == ({}, {1: "text_too_long"})


def test_json_lines_types_lose_nothing(tmp_path):
    records = [
        {"text": "a", "i": 1, "f": 1, "b": True, "mix": 1, "big": 2**63, "nest": {"x": [1]}, "none": None},
        {
            "text": "b",
            "i": -(2**63),
            "f": 0.5,
            "b": None,
            "mix": "one",
            "big": 1,
            "nest": None,
            "late": "here",
        },
        {"text": "c", "f": 2**53 + 1, "b": False, "mix": True},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records)))
    (file,) = list_files(ReviewFiles(path=str(path))).files
    frames = [batch.frame for batch in read_batches(file, ReviewFiles(), 1)]
    assert len({str(frame.schema) for frame in frames}) == 1
    assert_frame_equal(
        pl.concat(frames),
        pl.DataFrame(
            {
                "text": ["a", "b", "c"],
                "i": pl.Series([1, -(2**63), None], dtype=pl.Int64),
                "f": ["1", "0.5", str(2**53 + 1)],  # no float holds the last one
                "b": [True, None, False],
                "mix": ["1", "one", "true"],
                "big": [str(2**63), "1", None],
                "nest": ['{"x":[1]}', None, None],
                "none": pl.Series([None, None, None], dtype=pl.String),
                "late": [None, "here", None],
            }
        ),
    )


def test_keys_used_as_data_are_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps({"text": "x", f"user-{i}": 1}) for i in range(2000)))
    with pytest.raises(SourceError, match="more than 1000 different fields"):
        read(path)


def test_dots_reach_nested_text(tmp_path):
    nested = [{"review": {"text": "good", "n": 1}}, {"review": {"n": 2}}, {"review": 5}, {"other": 1}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, nested)))
    reasons = dict.fromkeys((2, 3, 4), "missing_text")
    assert read(path, Columns(text="review.text")) == ({1: "good"}, reasons)
    pl.DataFrame({"review": [{"text": "good"}, {"text": None}]}).write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", Columns(text="review.text")) == ({1: "good"}, {2: "missing_text"})
    with pytest.raises(SourceError, match=r"holds Struct.*name a field inside it"):
        read(tmp_path / "a.parquet", Columns(text="review"))


def test_parquet_keeps_types_and_reads_bytes_as_text(tmp_path):
    table = pa.table(
        {
            "text": pa.array([b"plain bytes", b"\xff", None]),
            "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
            "stars": pa.array([1, 2, 3], pa.int8()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    (file,) = list_files(ReviewFiles(path=str(tmp_path / "a.parquet"))).files
    (batch,) = read_batches(file, ReviewFiles(), 10)
    assert batch.frame.schema == {"text": pl.Binary(), "kind": pl.String(), "stars": pl.Int8()}
    assert read(tmp_path / "a.parquet") == ({1: "plain bytes"}, {2: "undecodable", 3: "missing_text"})


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("only", [None, ("text",)])
def test_a_missing_text_column_is_named_with_those_there(tmp_path, name, only):
    frame = pl.DataFrame({"body": ["x"], "stars": [1]})
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[name[2:]](tmp_path / name)
    with pytest.raises(
        SourceError, match=f"text column missing: {name} has no column 'text', it has 'body', 'stars'; name"
    ):
        read(tmp_path / name, only=only)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 not really", "is no Parquet file or is damaged"),
        ("a.parquet.gz", b"not gzip, whatever its name says", "is no Parquet file or is damaged"),
        ("a.csv", b'"text\nnever closed\n', "header cannot be read"),
        ("a.csv", b"\xff\xff,text\nx,y\n", "header cannot be read"),
        ("a.csv", "text,id\nx,1\n".encode("utf-32"), "is it UTF-16 or UTF-32"),
        ("a.csv", b"te\0xt,text\n1,good\n", "zero bytes in the name of a column.*or no csv"),
        ("a.jsonl", b'{"te\\u0000xt": 1, "text": "good"}\n', "zero bytes in the name of a column.*or no jsonl"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    with pytest.raises(SourceError, match=message) as error:
        read(write(tmp_path / name, content))
    assert name in str(error.value)


def test_listing(tmp_path):
    for name in ["b.csv", "a.jsonl.gz", "sub/c.PARQUET", "README.md", ".hidden.csv", "_SUCCESS.csv", "d.txt"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write(path, name)

    def names(path, file_format="auto"):
        return [file.name for file in list_files(ReviewFiles(path=str(path), format=file_format)).files]

    assert names(tmp_path) == ["a.jsonl.gz", "b.csv", "sub/c.PARQUET"]
    assert names(tmp_path, "csv") == ["b.csv", "d.txt"]
    assert names(f"file://{tmp_path}/b.csv") == ["b.csv"]
    assert names(tmp_path / "?.csv") == ["b.csv"]
    assert names(tmp_path / "**" / "*.PARQUET") == ["sub/c.PARQUET"]
    assert names(tmp_path / "d.txt", "tsv") == ["d.txt"]
    write(tmp_path / "odd[1].csv", "text\n")
    assert names(tmp_path / "odd[1].csv") == ["odd[1].csv"]
    for path, message in [
        (tmp_path / "nothing.csv", "there is no file at"),
        (tmp_path / "gone" / "*.csv", "there is no file at"),
    ]:
        with pytest.raises(SourceError, match=message):
            list_files(ReviewFiles(path=str(path)))
    with pytest.raises(NoReviewsError, match="no file matches"):
        list_files(ReviewFiles(path=str(tmp_path / "*.tsv")))
    (tmp_path / "d.txt").unlink()
    passed_over = r"7 files passed over: 2 beginning with . or _ \(.*\); 1 ending in .md .*; 4 not tsv \(a.json"
    with pytest.raises(NoReviewsError, match="no review files in .*: " + passed_over):
        list_files(ReviewFiles(path=str(tmp_path), format="tsv"))
    (tmp_path / "e.csv").symlink_to(tmp_path / "gone.csv")
    assert "e.csv" not in names(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoReviewsError, match="there are no files in"):
        list_files(ReviewFiles(path=str(tmp_path / "empty")))


@pytest.mark.parametrize("pattern", ["", "/*.csv"])
def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(pattern):
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, into which only its owner may look
        Path(folder).chmod(0)
        owner = os.geteuid()
        if owner == 0:
            os.seteuid(65534)  # root may list everything
        try:
            with pytest.raises(SourceError, match=r"cannot list .*Permission denied; check"):
                list_files(ReviewFiles(path=folder + pattern))
        finally:
            os.seteuid(owner)
            Path(folder).chmod(0o700)


def test_fingerprint_is_of_the_content(tmp_path):
    def fingerprint(path):
        return list_files(ReviewFiles(path=str(path))).files[0].location.fingerprint()

    first = fingerprint(write(tmp_path / "a.csv", "text\nx\n"))
    os.utime(tmp_path / "a.csv", (1, 1))
    assert fingerprint(tmp_path / "a.csv") == first
    assert fingerprint(write(tmp_path / "a.csv", "text\ny\n")) != first


_PEAK = """
import sys
from sentiment_model.config import ReviewFiles
from sentiment_model.sources.files import read_batches
from sentiment_model.sources.listing import list_files
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
config = ReviewFiles(max_text_bytes=1_000_000)
(file,) = list_files(ReviewFiles(path=sys.argv[1])).files
before = peak()
reasons = [r for b in read_batches(file, config, 1000, ("text",)) for r in b.rejects["reason"]]
print(peak() - before, *reasons)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_bomb_does_not_fill_the_memory(tmp_path, kind):
    """768 MiB of one byte, compressed well below 1 MiB, are passed over in a fraction of that memory."""
    path = tmp_path / f"bomb.jsonl.{kind}"
    block = b"A" * (1 << 20)
    with gzip.open(path, "wb", compresslevel=6) if kind == "gz" else zstandard.open(path, "wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(768):
            file.write(block)
        file.write(b'"}\n{"text": "after"}\n')
    assert path.stat().st_size < 1 << 20
    done = subprocess.run([sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True)
    megabytes, *reasons = done.stdout.split()
    assert reasons == ["line_too_long"]
    assert int(megabytes) < 300


_HEADERS = [
    "text\n",
    "text,n\n",
    "n\ttext\n",
    '"n","text"\r\n',
    '"n,text"\n',
    "sep=;\ntext;n\n",
    "n|text|m\r",
    "",
    "[",
    "{",
]
_PIECES = st.text(alphabet="ab1, \"'\n\t;|\\\r[]{}:é\ufeff\0=", max_size=30)


@settings(deadline=None)
@given(
    name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.txt"]),
    header=st.sampled_from(_HEADERS),
    lines=st.lists(_PIECES, max_size=8),
    encoding=st.sampled_from(["utf-8", "utf-16", "cp1252"]),
)
def test_whatever_is_written_is_read_the_same_in_batches_of_any_size(name, header, lines, encoding):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, name), (header + "\n".join(lines)).encode(encoding, "replace"))
        found = []
        for options in ({}, {"batch_rows": 1}, {"only": ("text",)}):
            with contextlib.suppress(SourceError):
                found.append(read(path, **options))
    assert all(each == found[0] for each in found)
